#include "engine/rank_message.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "sluice/check.h"

namespace sluice {

namespace {

constexpr size_t kFirstBytes = 8 << 10;  // 64 sequences behind 1,000 tokens each

// The largest part of a step is pages that come back from a lower tier: 5 MB each for a model of 61 layers, of which a
// step fills some hundreds. A length beyond this is no length.
constexpr uint64_t kMaxMessageBytes = uint64_t{64} << 30;

// A span on the wire: its rows, and where its pages begin among all of the step's.
struct WireSpan {
  int32_t row_begin, position_begin, position_end, first_page;
};

int64_t pages_of(int32_t position_end) { return (int64_t{position_end} + kPageTokens - 1) / kPageTokens; }

class Writer {
 public:
  explicit Writer(RankMessage message) { bytes_.push_back(static_cast<std::byte>(message)); }

  template <typename T>
  void put(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    const uint64_t count = values.size();
    append(&count, sizeof(count));
    append(values.data(), values.size_bytes());
  }
  void append(const void* data, size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }

  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}

  template <typename T>
  void get(std::vector<T>& values) {
    uint64_t count = 0;
    if (!take(&count, sizeof(count))) return;
    if (count > left_.size() / sizeof(T)) {
      whole_ = false;
      return;
    }
    values.resize(count);
    take(values.data(), count * sizeof(T));
  }
  bool whole() const { return whole_ && left_.empty(); }

 private:
  bool take(void* out, size_t size) {
    whole_ = whole_ && size <= left_.size();
    if (!whole_) return false;
    if (size > 0) std::memcpy(out, left_.data(), size);
    left_ = left_.subspan(size);
    return true;
  }

  std::span<const std::byte> left_;
  bool whole_ = true;
};

void put_spans(Writer& writer, std::span<const SequenceSpan> spans, std::vector<PageId>& pages) {
  std::vector<WireSpan> wire;
  for (const SequenceSpan& span : spans) {
    wire.push_back({span.row_begin, span.position_begin, span.position_end, static_cast<int32_t>(pages.size())});
    pages.insert(pages.end(), span.pages, span.pages + pages_of(span.position_end));
  }
  writer.put(std::span<const WireSpan>(wire));
}

// False if a span leaves the rows or the pages.
bool take_spans(const std::vector<WireSpan>& wire, const ReceivedStep& step, std::vector<SequenceSpan>& spans) {
  for (const WireSpan& span : wire) {
    const int64_t rows = int64_t{span.position_end} - span.position_begin;
    if (span.row_begin < 0 || span.position_begin < 0 || rows <= 0 || span.first_page < 0 ||
        span.row_begin + rows > std::ssize(step.tokens) ||
        span.first_page + pages_of(span.position_end) > std::ssize(step.pages))
      return false;
    spans.push_back({span.row_begin, span.position_begin, span.position_end, step.pages.data() + span.first_page});
  }
  return true;
}

}  // namespace

std::vector<std::byte> encode(RankMessage message) { return Writer(message).take(); }

std::vector<std::byte> encode(const StepToSend& step) {
  const StepBatch& batch = *step.batch;
  Writer writer(RankMessage::kStep);
  writer.put(step.filled);
  const uint64_t content_bytes = step.contents.size() * static_cast<uint64_t>(batch.kv.bytes_per_page);
  writer.append(&content_bytes, sizeof(content_bytes));
  for (const std::byte* page : step.contents) writer.append(page, static_cast<size_t>(batch.kv.bytes_per_page));
  writer.put(step.copies);
  writer.put(batch.tokens);
  writer.put(batch.positions);
  std::vector<PageId> pages;
  put_spans(writer, batch.prompt_spans, pages);
  put_spans(writer, batch.generated_spans, pages);
  writer.put(std::span<const PageId>(pages));
  writer.put(batch.output_rows);
  writer.put(step.logits);
  const uint64_t values = step.hidden_states.size() * static_cast<uint64_t>(step.hidden_size);
  writer.append(&values, sizeof(values));
  for (const float* hidden : step.hidden_states)
    writer.append(hidden, static_cast<size_t>(step.hidden_size) * sizeof(float));
  return writer.take();
}

StepBatch ReceivedStep::batch(KvPages kv) const {
  return {.tokens = tokens,
          .positions = positions,
          .prompt_spans = prompt_spans,
          .generated_spans = generated_spans,
          .output_rows = output_rows,
          .kv = kv};
}

Result<RankMessage> kind_of(std::span<const std::byte> message) {
  if (message.empty() || message[0] > static_cast<std::byte>(RankMessage::kEnd))
    return internal_error("a message of {} bytes from rank 0 is of no known kind; are the binaries the same?",
                          message.size());
  return static_cast<RankMessage>(message[0]);
}

Result<ReceivedStep> decode_step(std::span<const std::byte> message) {
  ReceivedStep step;
  std::vector<WireSpan> prompt, generated;
  Reader reader(message.empty() ? message : message.subspan(1));
  reader.get(step.filled);
  reader.get(step.contents);
  reader.get(step.copies);
  reader.get(step.tokens);
  reader.get(step.positions);
  reader.get(prompt);
  reader.get(generated);
  reader.get(step.pages);
  reader.get(step.output_rows);
  reader.get(step.logits);
  reader.get(step.hidden_states);
  if (!reader.whole() || step.positions.size() != step.tokens.size() || !take_spans(prompt, step, step.prompt_spans) ||
      !take_spans(generated, step, step.generated_spans))
    return internal_error("a step of {} bytes from rank 0 does not hold together; are the binaries the same?",
                          message.size());
  return step;
}

Status send_message(Communicator& ranks, std::span<const std::byte> message) {
  std::vector<std::byte> first(kFirstBytes);
  const uint64_t length = message.size();
  std::memcpy(first.data(), &length, sizeof(length));
  const size_t head = std::min(message.size(), kFirstBytes - sizeof(length));
  std::memcpy(first.data() + sizeof(length), message.data(), head);
  SLUICE_RETURN_IF_ERROR(ranks.broadcast(first));
  if (head == message.size()) return {};
  std::vector<std::byte> rest(message.begin() + static_cast<std::ptrdiff_t>(head), message.end());
  return ranks.broadcast(rest);
}

Result<std::vector<std::byte>> receive_message(Communicator& ranks) {
  std::vector<std::byte> first(kFirstBytes);
  SLUICE_RETURN_IF_ERROR(ranks.broadcast(first));
  uint64_t length = 0;
  std::memcpy(&length, first.data(), sizeof(length));
  if (length > kMaxMessageBytes)
    return internal_error("a message of {} bytes from rank 0 is longer than any; are the binaries the same?", length);
  const size_t head = std::min<size_t>(length, kFirstBytes - sizeof(length));
  std::vector<std::byte> message(length);
  std::memcpy(message.data(), first.data() + sizeof(length), head);
  if (head < length) SLUICE_RETURN_IF_ERROR(ranks.broadcast(std::span(message).subspan(head)));
  return message;
}

}  // namespace sluice
