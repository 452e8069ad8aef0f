#include "parallel/gloo_communicator.h"

#include <gloo/allgather.h>
#include <gloo/allgatherv.h>
#include <gloo/alltoallv.h>
#include <gloo/broadcast.h>
#include <gloo/gather.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "sluice/check.h"

#include "parallel/own_address.h"

namespace sluice {

namespace {

std::chrono::milliseconds milliseconds(Duration duration) {
  return std::chrono::ceil<std::chrono::milliseconds>(duration);
}

// Gloo's Store over ours. Gloo's interface speaks in exceptions.
class GlooStore final : public gloo::rendezvous::Store {
 public:
  GlooStore(StoreClient& client, Duration timeout) : client_(client), timeout_(timeout) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    const Status status = client_.set("gloo/" + key, {data.data(), data.size()});
    if (!status.ok()) throw std::runtime_error(status.to_string());
  }
  std::vector<char> get(const std::string& key) override {
    const Result<std::string> value = client_.get("gloo/" + key, timeout_);
    if (!value.ok()) throw std::runtime_error(value.status().to_string());
    return {value->begin(), value->end()};
  }
  void wait(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) get(key);
  }
  // Gloo asks with the timeout of an operation; until all ranks have come, ours holds.
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds&) override { wait(keys); }

 private:
  StoreClient& client_;
  const Duration timeout_;
};

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(int rank, int size, std::shared_ptr<gloo::Context> context)
      : Communicator(rank, size), context_(std::move(context)) {}

  void set_timeout(Duration timeout) override { context_->setTimeout(milliseconds(timeout)); }

  Status all_reduce_sum(std::span<float> values) override {
    return guarded("all_reduce_sum", [&] {
      if (values.size_bytes() <= kSmallBytes) {
        reduce_small(values);
      } else {
        reduce_large(values);
      }
    });
  }

  Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    check_sizes(mine, all);
    return guarded("all_gather", [&] { gather_all(mine, all); });
  }

  Status gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (rank() == 0) check_sizes(mine, all);
    return guarded("gather", [&] {
      if (mine.empty()) return;
      gloo::GatherOptions options(context_);
      options.setTag(tag_);
      options.setRoot(0);
      options.setInput(bytes_of(mine), mine.size());
      if (rank() == 0) options.setOutput(bytes_of(all), all.size());
      gloo::gather(options);
    });
  }

  Status broadcast(std::span<std::byte> bytes) override {
    return guarded("broadcast", [&] {
      if (bytes.empty()) return;
      gloo::BroadcastOptions options(context_);
      options.setTag(tag_);
      options.setRoot(0);
      options.setOutput(bytes_of(bytes), bytes.size());
      gloo::broadcast(options);
    });
  }

 private:
  static char* bytes_of(std::span<const std::byte> span) {  // Gloo takes inputs by mutable pointer, and leaves them
    return reinterpret_cast<char*>(const_cast<std::byte*>(span.data()));
  }

  void check_sizes(std::span<const std::byte> mine, std::span<std::byte> all) const {
    SLUICE_CHECK(all.size() == mine.size() * static_cast<size_t>(size()), "{} bytes of {} ranks gathered into {}",
                 mine.size(), size(), all.size());
  }

  // Every operation has a tag of its own: ranks that fell out of step time out instead of mixing up their bytes.
  template <typename Operation>
  Status guarded(const char* name, const Operation& operation) {
    if (!broken_.ok()) return broken_;
    ++tag_;
    try {
      operation();
    } catch (const std::exception& error) {
      broken_ = unavailable("rank {} of {}: {} number {}: {}", rank(), size(), name, tag_, error.what());
    }
    return broken_;
  }

  void gather_all(std::span<const std::byte> mine, std::span<std::byte> all) {
    if (mine.empty()) return;
    gloo::AllgatherOptions options(context_);
    options.setTag(tag_);
    options.setInput(bytes_of(mine), mine.size());
    options.setOutput(bytes_of(all), all.size());
    gloo::allgather(options);
  }

  // sum [count] = the ranks' terms [size, count], added in their order.
  void add_in_order(const float* terms, size_t count, float* sum) const {
    std::copy_n(terms, count, sum);
    for (int term = 1; term < size(); ++term) {
      terms += count;
      for (size_t i = 0; i < count; ++i) sum[i] += terms[i];
    }
  }

  void reduce_small(std::span<float> values) {
    terms_.resize(values.size() * static_cast<size_t>(size()));
    gather_all(std::as_bytes(values), std::as_writable_bytes(std::span(terms_)));
    add_in_order(terms_.data(), values.size(), values.data());
  }

  //   rank r gets part r of everybody's values, adds it up, and everybody gets every part
  void reduce_large(std::span<float> values) {
    const size_t ranks = static_cast<size_t>(size()), part = (values.size() + ranks - 1) / ranks;
    std::vector<int64_t> sent(ranks);
    std::vector<size_t> parts(ranks);
    for (size_t r = 0; r < ranks; ++r) {
      parts[r] = std::min(part, values.size() - std::min(values.size(), r * part));
      sent[r] = static_cast<int64_t>(parts[r]);
    }
    const size_t mine = parts[static_cast<size_t>(rank())];
    terms_.resize(mine * ranks);
    gloo::AlltoallvOptions exchange(context_);
    exchange.setTag(tag_);
    exchange.setInput(values.data(), sent);
    exchange.setOutput(terms_.data(), std::vector<int64_t>(ranks, static_cast<int64_t>(mine)));
    gloo::alltoallv(exchange);
    sum_.resize(mine);
    if (mine > 0) add_in_order(terms_.data(), mine, sum_.data());
    gloo::AllgathervOptions spread(context_);
    spread.setTag(tag_);
    spread.setInput(sum_.data(), mine);
    spread.setOutput(values.data(), parts);
    gloo::allgatherv(spread);
  }

  std::shared_ptr<gloo::Context> context_;
  uint32_t tag_ = 0;
  Status broken_;
  std::vector<float> terms_;  // of all ranks
  std::vector<float> sum_;
};

}  // namespace

Result<std::unique_ptr<Communicator>> connect_gloo(const GroupAddress& address, StoreClient& store) {
  const Result<std::string> found = own_address(address, store);
  if (!found.ok())
    return unavailable("rank {} of {}: the ranks did not meet: {}", address.rank, address.size,
                       found.status().to_string());
  const std::string& own = *found;
  try {
    std::shared_ptr<gloo::transport::Device> device =
        gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(own.c_str()));
    auto context = std::make_shared<gloo::rendezvous::Context>(address.rank, address.size);
    // The first to come waits for the last one, in whatever step of the meeting.
    context->setTimeout(milliseconds(address.start_timeout));
    GlooStore keys(store, address.start_timeout);
    context->connectFullMesh(keys, device);
    context->setTimeout(milliseconds(address.timeout));
    return std::unique_ptr<Communicator>(
        std::make_unique<GlooCommunicator>(address.rank, address.size, std::move(context)));
  } catch (const std::exception& error) {
    return unavailable("rank {} of {} at {}: the ranks did not meet: {}", address.rank, address.size, own,
                       error.what());
  }
}

}  // namespace sluice
