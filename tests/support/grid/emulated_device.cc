#include "tests/support/grid/emulated_device.h"

#include <sanitizer/asan_interface.h>

#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "gpu/device_memory.h"

namespace sluice {

namespace {

constexpr std::align_val_t kAlignment{kDeviceAlignment};

}  // namespace

EmulatedDevice::EmulatedDevice(const Options& options)
    : properties_{.name = "emulated grid",
                  .memory_bytes = options.memory_bytes,
                  .multiprocessors = options.multiprocessors,
                  .shared_bytes_of_block = options.shared_bytes_of_block,
                  .capability = 90},
      random_state_(options.seed * 0x9E3779B97F4A7C15 + 1) {}

EmulatedDevice::~EmulatedDevice() {
  run_queue();
  set_poison(false);
  if (!allocations_.empty() || !pinned_.empty() || !graphs_.empty() || !events_.empty())
    grid::fail("the device goes with %zu allocations, %zu of the host, %zu graphs, %zu events left",
               allocations_.size(), pinned_.size(), graphs_.size(), events_.size());
}

Status EmulatedDevice::enter() {
  entered_by_ = std::this_thread::get_id();
  return {};
}

Status EmulatedDevice::may_fail(const char* call) {
  if (entered_by_ != std::this_thread::get_id()) grid::fail("%s: from a thread that has not entered the device", call);
  if (fails_in_ == 0 || --fails_in_ > 0) return {};
  return {fail_code_, std::string(call) + ": fails by request"};
}

void EmulatedDevice::require_device(const std::byte* memory, int64_t bytes, const char* call) const {
  auto found = allocations_.upper_bound(memory);
  if (found == allocations_.begin() || (--found, memory + bytes > found->first + found->second))
    grid::fail("%s: %ld bytes at %p are not in one allocation of the device", call, long{bytes},
               static_cast<const void*>(memory));
}

void EmulatedDevice::set_poison(bool on) {
  for (const auto& [begin, bytes] : allocations_) {
    if (on) {
      ASAN_POISON_MEMORY_REGION(begin, static_cast<size_t>(bytes));
    } else {
      ASAN_UNPOISON_MEMORY_REGION(begin, static_cast<size_t>(bytes));
    }
  }
}

void EmulatedDevice::give(Work work) {
  if (capturing_) {
    captured_.push_back(std::move(work));
    return;
  }
  pending_.push_back(std::move(work));
  if (next_random() % 16 == 0) run_queue();
}

uint64_t EmulatedDevice::next_random() {
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return random_state_;
}

void EmulatedDevice::run_queue() {
  if (pending_.empty()) return;
  set_poison(false);
  const std::vector<Work> works = std::move(pending_);
  pending_.clear();
  for (const Work& work : works) work();
  set_poison(true);
}

Result<int64_t> EmulatedDevice::free_bytes() {
  SLUICE_RETURN_IF_ERROR(may_fail("free_bytes"));
  return properties_.memory_bytes - allocated_bytes_;
}

Result<std::byte*> EmulatedDevice::allocate(int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("allocate"));
  if (bytes > properties_.memory_bytes - allocated_bytes_)
    return resource_exhausted("allocate: {} bytes of {} free", bytes, properties_.memory_bytes - allocated_bytes_);
  auto* memory = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), kAlignment));
  std::memset(memory, 0xFF, static_cast<size_t>(bytes));
  allocations_[memory] = bytes;
  allocated_bytes_ += bytes;
  ASAN_POISON_MEMORY_REGION(memory, static_cast<size_t>(bytes));
  return memory;
}

void EmulatedDevice::release(std::byte* memory) {
  run_queue();  // what still uses it
  const auto found = allocations_.find(memory);
  if (found == allocations_.end()) grid::fail("release: %p is no allocation", static_cast<void*>(memory));
  ASAN_UNPOISON_MEMORY_REGION(memory, static_cast<size_t>(found->second));
  allocated_bytes_ -= found->second;
  allocations_.erase(found);
  ::operator delete(memory, kAlignment);
}

int64_t EmulatedDevice::pinned_bytes() const {
  int64_t sum = 0;
  for (const auto& [begin, bytes] : pinned_) sum += bytes;
  return sum;
}

Result<std::byte*> EmulatedDevice::allocate_host(int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("allocate_host"));
  auto* memory = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), kAlignment));
  std::memset(memory, 0xFF, static_cast<size_t>(bytes));
  pinned_[memory] = bytes;
  return memory;
}

void EmulatedDevice::release_host(std::byte* memory) {
  run_queue();
  if (pinned_.erase(memory) == 0) grid::fail("release_host: %p is no allocation", static_cast<void*>(memory));
  ::operator delete(memory, kAlignment);
}

Status EmulatedDevice::copy_in(std::byte* device, const std::byte* host, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("copy_in"));
  require_device(device, bytes, "copy_in");
  ++stats_.copies_in;
  give([=] { std::memcpy(device, host, static_cast<size_t>(bytes)); });
  return {};
}

Status EmulatedDevice::copy_out(std::byte* host, const std::byte* device, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("copy_out"));
  require_device(device, bytes, "copy_out");
  ++stats_.copies_out;
  give([=] { std::memcpy(host, device, static_cast<size_t>(bytes)); });
  return {};
}

Status EmulatedDevice::copy(std::byte* to, const std::byte* from, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("copy"));
  require_device(to, bytes, "copy");
  require_device(from, bytes, "copy");
  give([=] { std::memmove(to, from, static_cast<size_t>(bytes)); });
  return {};
}

Status EmulatedDevice::fill(std::byte* device, uint8_t value, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("fill"));
  require_device(device, bytes, "fill");
  give([=] { std::memset(device, value, static_cast<size_t>(bytes)); });
  return {};
}

Status EmulatedDevice::wait() {
  if (capturing_) grid::fail("wait() during a capture");
  ++stats_.waits;
  give([this] { run_call(); });  // one that nobody joined
  run_queue();
  return may_fail("wait");
}

// Every question brings the random moment nearer.
Result<bool> EmulatedDevice::done() {
  if (capturing_) grid::fail("done() during a capture");
  SLUICE_RETURN_IF_ERROR(may_fail("done"));
  if (pending_.empty()) return true;
  give([] {});
  return pending_.empty();
}

Status EmulatedDevice::begin_capture() {
  if (capturing_) grid::fail("a capture inside a capture");
  SLUICE_RETURN_IF_ERROR(may_fail("begin_capture"));
  capturing_ = true;
  return {};
}

Result<Device::Graph> EmulatedDevice::end_capture() {
  if (!capturing_) grid::fail("end_capture() without a capture");
  capturing_ = false;
  std::vector<Work> works = std::move(captured_);
  captured_.clear();
  SLUICE_RETURN_IF_ERROR(may_fail("end_capture"));
  graphs_[next_handle_] = std::move(works);
  return Graph{next_handle_++};
}

Status EmulatedDevice::replay(Graph graph) {
  const auto found = graphs_.find(static_cast<uint64_t>(graph));
  if (found == graphs_.end()) grid::fail("replay of no graph");
  SLUICE_RETURN_IF_ERROR(may_fail("replay"));
  ++stats_.replays;
  for (const Work& work : found->second) give(work);
  return {};
}

void EmulatedDevice::release(Graph graph) {
  if (graphs_.erase(static_cast<uint64_t>(graph)) == 0) grid::fail("release of no graph");
}

void EmulatedDevice::run_call() {
  if (!forked_.run) return;
  set_poison(true);
  const HostCall call = std::exchange(forked_, {});
  call.run(call.context);
  set_poison(false);
}

Status EmulatedDevice::fork_call(HostCall call) {
  if (std::exchange(call_is_open_, true)) grid::fail("fork_call: the call before is not joined");
  if (const Status status = may_fail("fork_call"); !status.ok()) {
    call_is_open_ = false;
    return status;
  }
  give([this, call] {
    forked_ = call;
    if (next_random() % 2 == 0) run_call();
  });
  return {};
}

Status EmulatedDevice::join_call() {
  if (!std::exchange(call_is_open_, false)) grid::fail("join_call: no call is open");
  SLUICE_RETURN_IF_ERROR(may_fail("join_call"));
  give([this] { run_call(); });
  return {};
}

Result<Device::Event> EmulatedDevice::mark() {
  SLUICE_RETURN_IF_ERROR(may_fail("mark"));
  const uint64_t handle = next_handle_++;
  events_[handle] = -1;
  give([this, handle] {
    events_[handle] = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  });
  return Event{handle};
}

Result<double> EmulatedDevice::seconds_between(Event begin, Event end) {
  const double from = events_.at(static_cast<uint64_t>(begin)), to = events_.at(static_cast<uint64_t>(end));
  if (from < 0 || to < 0) grid::fail("seconds_between marks that were not reached: wait() first");
  return to - from;
}

void EmulatedDevice::release(Event event) {
  run_queue();
  events_.erase(static_cast<uint64_t>(event));
}

}  // namespace sluice
