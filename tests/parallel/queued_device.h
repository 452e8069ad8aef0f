// A device in host memory whose queue is a thread: work is done in order while the host goes on, and work that waits
// for another rank keeps everything behind it waiting, as on a GPU. Runs no kernels; the emulated device of
// tests/support/grid does, but in the calling thread, where ranks that wait for each other would stand still. Fresh
// memory is all ones.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sluice/device.h"

struct CUstream_st {
  virtual ~CUstream_st() = default;
  virtual void enqueue(std::function<void()> work) = 0;
  virtual bool reaches(const void* memory, size_t bytes) const = 0;  // as memory of the device
};

namespace sluice {

class QueuedDevice final : public Device {
 public:
  QueuedDevice();
  ~QueuedDevice() override;  // waits for the queue

  // From now on calls of this name fail.
  void fail(std::string call, StatusCode code = StatusCode::kInternal) {
    failing_ = std::move(call);
    code_ = code;
  }

  const DeviceProperties& properties() const override { return properties_; }
  Status enter() override { return {}; }
  Result<int64_t> free_bytes() override { return int64_t{1} << 30; }
  CUstream_st* stream() override { return &queue_; }

  Result<std::byte*> allocate(int64_t bytes) override { return make("allocate", device_memory_, bytes); }
  void release(std::byte* memory) override;
  Result<std::byte*> allocate_host(int64_t bytes) override { return make("allocate_host", host_memory_, bytes); }
  void release_host(std::byte* memory) override;

  Status copy_in(std::byte* device, const std::byte* host, int64_t bytes) override;
  Status copy_out(std::byte* host, const std::byte* device, int64_t bytes) override;
  Status copy(std::byte* to, const std::byte* from, int64_t bytes) override;
  Status fill(std::byte* device, uint8_t value, int64_t bytes) override;
  Status wait() override;
  Result<bool> done() override;

  Status begin_capture() override;
  Result<Graph> end_capture() override;
  Status replay(Graph graph) override;
  void release(Graph graph) override { graphs_.erase(static_cast<uint64_t>(graph)); }

  Status fork_call(HostCall call) override {
    give([call] { call.run(call.context); });
    return {};
  }
  Status join_call() override { return {}; }

  Result<Event> mark() override { return Status(StatusCode::kUnimplemented, "this device has no clock"); }
  Result<double> seconds_between(Event, Event) override { return mark().status(); }
  void release(Event) override {}

 private:
  using Work = std::function<void()>;
  using Memory = std::map<const std::byte*, int64_t>;  // begin -> bytes
  struct Queue final : CUstream_st {
    explicit Queue(QueuedDevice& device_) : device(device_) {}
    void enqueue(Work work) override { device.give(std::move(work)); }
    bool reaches(const void* memory, size_t bytes) const override {
      return holds(device.device_memory_, static_cast<const std::byte*>(memory), static_cast<int64_t>(bytes));
    }
    QueuedDevice& device;
  };

  static bool holds(const Memory& memory, const std::byte* begin, int64_t bytes);
  Status may_fail(const char* call) const;
  Result<std::byte*> make(const char* call, Memory& memory, int64_t bytes);
  void give(Work work);
  void work();

  DeviceProperties properties_{.name = "queue"};
  std::string failing_;
  StatusCode code_ = StatusCode::kInternal;
  Memory device_memory_, host_memory_;
  Queue queue_{*this};
  bool capturing_ = false;
  std::vector<Work> captured_;
  uint64_t next_graph_ = 1;
  std::map<uint64_t, std::vector<Work>> graphs_;

  std::mutex mutex_;  // of the three below
  std::condition_variable changed_;
  std::deque<Work> pending_;
  size_t unfinished_ = 0;
  bool ends_ = false;
  std::thread worker_;
};

}  // namespace sluice
