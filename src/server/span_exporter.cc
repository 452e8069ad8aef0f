#include "server/span_exporter.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "sluice/log.h"

#include "opentelemetry/trace_service.grpc.pb.h"
#include "server/wire.h"

namespace sluice {

namespace {

namespace otlp = opentelemetry::proto::collector::trace::v1;

template <typename Repeated>
otlp::AnyValue* attribute(Repeated* attributes, const char* key) {
  otlp::KeyValue* entry = attributes->Add();
  entry->set_key(key);
  return entry->mutable_value();
}

template <size_t N>
std::string bytes_of(const std::array<uint8_t, N>& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::string bytes_of(uint64_t number) {
  std::string out(sizeof(number), '\0');
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(number >> (8 * i));
  return out;
}

uint64_t nanoseconds(Duration duration) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

// A part of the request's span, `from` its beginning; nothing if it took no time.
void add_part(const char* name, const otlp::Span& whole, uint64_t from, Duration length, uint64_t fresh,
              otlp::ScopeSpans* out) {
  if (length <= Duration{}) return;
  otlp::Span& span = *out->add_spans();
  span.set_trace_id(whole.trace_id());
  span.set_span_id(bytes_of(fresh));
  span.set_parent_span_id(whole.span_id());
  span.set_name(name);
  span.set_kind(otlp::Span::SPAN_KIND_INTERNAL);
  span.set_start_time_unix_nano(whole.start_time_unix_nano() + from);
  span.set_end_time_unix_nano(whole.start_time_unix_nano() + from + nanoseconds(length));
  span.set_flags(whole.flags());
}

// Names of attributes: OpenTelemetry's conventions for generative AI where they have one.
void add_spans(const AnswerRecord& record, const std::string& model, FreshNumbers& numbers, otlp::ScopeSpans* out) {
  otlp::Span& span = *out->add_spans();
  if (record.trace) {
    span.set_trace_id(bytes_of(record.trace->trace_id));
    span.set_parent_span_id(bytes_of(record.trace->span_id));
  } else {
    span.set_trace_id(bytes_of(numbers.next()) + bytes_of(numbers.next()));
  }
  span.set_span_id(bytes_of(numbers.next() | 1));
  span.set_name("request");
  span.set_kind(otlp::Span::SPAN_KIND_SERVER);
  span.set_flags(1);
  const uint64_t end = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(record.ended_at.time_since_epoch()).count());
  span.set_start_time_unix_nano(end - nanoseconds(record.end.total_time));
  span.set_end_time_unix_nano(end);
  const Usage& usage = record.end.usage;
  auto* attributes = span.mutable_attributes();
  attribute(attributes, "gen_ai.request.model")->set_string_value(model);
  attribute(attributes, "gen_ai.usage.input_tokens")->set_int_value(usage.prompt_tokens);
  attribute(attributes, "gen_ai.usage.output_tokens")->set_int_value(usage.completion_tokens);
  attribute(attributes, "sluice.cached_input_tokens")->set_int_value(usage.cached_prompt_tokens);
  attribute(attributes, "sluice.request_id")->set_string_value(record.request_id);
  if (record.finish != FinishReason::kNone)
    attribute(attributes, "gen_ai.response.finish_reason")->set_string_value(name(record.finish));
  if (!record.client.empty()) attribute(attributes, "enduser.id")->set_string_value(record.client);
  if (!record.end.status.ok()) {
    span.mutable_status()->set_code(otlp::SpanStatus::STATUS_CODE_ERROR);
    span.mutable_status()->set_message(record.end.status.to_string());
  }
  const otlp::Span whole = span;  // adding moves it
  add_part("queue", whole, 0, usage.queue_time, numbers.next() | 1, out);
  add_part("prefill", whole, nanoseconds(usage.queue_time), usage.prefill_time, numbers.next() | 1, out);
  add_part("decode", whole, nanoseconds(usage.queue_time + usage.prefill_time), usage.decode_time, numbers.next() | 1,
           out);
}

}  // namespace

struct SpanExporter::Channel {
  explicit Channel(const std::string& endpoint)
      : stub(otlp::TraceService::NewStub(grpc::CreateChannel(endpoint, grpc::InsecureChannelCredentials()))) {}
  std::unique_ptr<otlp::TraceService::Stub> stub;
};

SpanExporter::SpanExporter(SpanExporterOptions options)
    : options_(std::move(options)),
      channel_(std::make_unique<Channel>(options_.endpoint)),
      thread_([this] { run(); }) {}

SpanExporter::~SpanExporter() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

bool SpanExporter::sampled(const AnswerRecord& record) {
  if (record.trace) return record.trace->sampled;
  return static_cast<double>(numbers_.next() >> 11) * 0x1p-53 < options_.sample_ratio;
}

void SpanExporter::record(const AnswerRecord& record) {
  if (!sampled(record)) return;
  std::unique_lock lock(mutex_);
  if (waiting_.size() >= options_.max_waiting) {
    ++num_dropped_;
    return;
  }
  waiting_.push_back(record);
  const bool full = waiting_.size() == options_.max_batch;
  lock.unlock();
  if (full) changed_.notify_one();
}

void SpanExporter::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait_for(lock, options_.interval, [this] { return stopping_ || waiting_.size() >= options_.max_batch; });
    const bool last = stopping_;
    while (!waiting_.empty()) {
      const auto count = static_cast<std::ptrdiff_t>(std::min(waiting_.size(), options_.max_batch));
      std::vector<AnswerRecord> batch(std::make_move_iterator(waiting_.begin()),
                                      std::make_move_iterator(waiting_.begin() + count));
      waiting_.erase(waiting_.begin(), waiting_.begin() + count);
      lock.unlock();
      send(std::move(batch));
      lock.lock();
      if (stopping_ && (last || failing_)) {  // one more message was promised, and none to nobody
        num_dropped_ += std::ssize(waiting_);
        if (num_dropped_ > 0) log_info("traces: {} spans sent, {} dropped", num_exported(), num_dropped());
        return;
      }
    }
    if (last) return;
  }
}

void SpanExporter::send(std::vector<AnswerRecord> records) {
  otlp::ExportTraceServiceRequest request;
  otlp::ResourceSpans& spans = *request.add_resource_spans();
  auto* resource = spans.mutable_resource()->mutable_attributes();
  attribute(resource, "service.name")->set_string_value(options_.service_name);
  attribute(resource, "service.version")->set_string_value(options_.service_version);
  otlp::ScopeSpans& scope = *spans.add_scope_spans();
  scope.mutable_scope()->set_name("sluice");
  scope.mutable_scope()->set_version(options_.service_version);
  for (const AnswerRecord& record : records) add_spans(record, options_.model, numbers_, &scope);

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(options_.timeout));
  otlp::ExportTraceServiceResponse response;
  const grpc::Status status = channel_->stub->Export(&context, request, &response);
  const auto count = static_cast<int64_t>(records.size());
  if (status.ok()) {
    num_exported_ += count;
    if (std::exchange(failing_, false)) log_info("traces: the collector {} takes spans again", options_.endpoint);
    return;
  }
  num_dropped_ += count;
  if (!std::exchange(failing_, true))  // once, until it works again
    log_warn("traces: the collector {} takes no spans, they are dropped: {}", options_.endpoint,
             from_grpc(status).to_string());
}

}  // namespace sluice
