#include "tests/parallel/queued_device.h"

#include <cstring>
#include <new>

#include "sluice/check.h"

namespace sluice {

QueuedDevice::QueuedDevice() : worker_([this] { work(); }) {}

QueuedDevice::~QueuedDevice() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  worker_.join();
  SLUICE_CHECK(device_memory_.empty() && host_memory_.empty(), "{} blocks of the device, {} of the host left",
               device_memory_.size(), host_memory_.size());
}

void QueuedDevice::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || !pending_.empty(); });
    if (pending_.empty()) return;
    const Work next = std::move(pending_.front());
    pending_.pop_front();
    lock.unlock();
    next();
    lock.lock();
    --unfinished_;
    changed_.notify_all();
  }
}

void QueuedDevice::give(Work work) {
  if (capturing_) {
    captured_.push_back(std::move(work));
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    pending_.push_back(std::move(work));
    ++unfinished_;
  }
  changed_.notify_all();
}

bool QueuedDevice::holds(const Memory& memory, const std::byte* begin, int64_t bytes) {
  auto found = memory.upper_bound(begin);
  return found != memory.begin() && (--found, begin + bytes <= found->first + found->second);
}

Status QueuedDevice::may_fail(const char* call) const {
  return failing_ == call ? Status(code_, fmt::format("{}: fails by request", call)) : Status();
}

Result<std::byte*> QueuedDevice::make(const char* call, Memory& memory, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail(call));
  auto* begin = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes)));
  std::memset(begin, 0xFF, static_cast<size_t>(bytes));
  memory[begin] = bytes;
  return begin;
}

// In the order of the queue, as CUDA's.
void QueuedDevice::release(std::byte* memory) {
  SLUICE_CHECK(device_memory_.erase(memory) == 1, "no memory of this device");
  give([memory] { ::operator delete(memory); });
}

// CUDA waits here, too.
void QueuedDevice::release_host(std::byte* memory) {
  SLUICE_CHECK(host_memory_.erase(memory) == 1, "no pinned memory");
  SLUICE_CHECK(wait().ok(), "wait fails");
  ::operator delete(memory);
}

Status QueuedDevice::copy_in(std::byte* device, const std::byte* host, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("copy_in"));
  SLUICE_CHECK(holds(device_memory_, device, bytes) && holds(host_memory_, host, bytes), "{} bytes", bytes);
  give([=] { std::memcpy(device, host, static_cast<size_t>(bytes)); });
  return {};
}

Status QueuedDevice::copy_out(std::byte* host, const std::byte* device, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("copy_out"));
  SLUICE_CHECK(holds(device_memory_, device, bytes) && holds(host_memory_, host, bytes), "{} bytes", bytes);
  give([=] { std::memcpy(host, device, static_cast<size_t>(bytes)); });
  return {};
}

Status QueuedDevice::copy(std::byte* to, const std::byte* from, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("copy"));
  SLUICE_CHECK(holds(device_memory_, to, bytes) && holds(device_memory_, from, bytes), "{} bytes", bytes);
  give([=] { std::memmove(to, from, static_cast<size_t>(bytes)); });
  return {};
}

Status QueuedDevice::fill(std::byte* device, uint8_t value, int64_t bytes) {
  SLUICE_RETURN_IF_ERROR(may_fail("fill"));
  SLUICE_CHECK(holds(device_memory_, device, bytes), "{} bytes", bytes);
  give([=] { std::memset(device, value, static_cast<size_t>(bytes)); });
  return {};
}

Status QueuedDevice::wait() {
  SLUICE_CHECK(!capturing_, "wait() during a capture");
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return unfinished_ == 0; });
  return may_fail("wait");
}

Result<bool> QueuedDevice::done() {
  SLUICE_CHECK(!capturing_, "done() during a capture");
  SLUICE_RETURN_IF_ERROR(may_fail("done"));
  const std::lock_guard lock(mutex_);
  return unfinished_ == 0;
}

Status QueuedDevice::begin_capture() {
  SLUICE_CHECK(!capturing_, "a capture inside a capture");
  capturing_ = true;
  return {};
}

Result<Device::Graph> QueuedDevice::end_capture() {
  SLUICE_CHECK(capturing_, "end_capture() without a capture");
  capturing_ = false;
  graphs_[next_graph_] = std::exchange(captured_, {});
  return Graph{next_graph_++};
}

Status QueuedDevice::replay(Graph graph) {
  for (const Work& work : graphs_.at(static_cast<uint64_t>(graph))) give(work);
  return {};
}

}  // namespace sluice
