// A CUDA device in host memory: launches run in the emulated grid. It is late on purpose: work waits in the queue until
// wait(), or until a random moment before it, so that host memory reused too early, or read before wait(), shows as
// wrong values. A call of the host runs at once or not before it is joined. Fresh memory is all ones (NaN, -1). The host
// may not touch device memory: AddressSanitizer stops it, for memory of the device is poisoned but while queued work
// runs. Captured work is run at replay() with the arguments of its capture, as CUDA does.
#pragma once

#include <grid.h>

#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "sluice/device.h"

namespace sluice {

class EmulatedDevice final : public Device {
 public:
  struct Options {
    uint64_t seed = 1;
    int64_t memory_bytes = int64_t{1} << 30;
    int32_t multiprocessors = 2;
    int32_t shared_bytes_of_block = 227 * 1024;  // sm_90's
  };
  // What it was asked to do; tests count copies per step.
  struct Stats {
    int64_t launches = 0, copies_in = 0, copies_out = 0, waits = 0, replays = 0;
  };

  explicit EmulatedDevice(const Options& options);
  ~EmulatedDevice() override;

  const Stats& stats() const { return stats_; }
  int64_t allocated_bytes() const { return allocated_bytes_; }
  int64_t pinned_bytes() const;
  // The n-th call from now on that can fail does, once; 0: none. `code`: what it returns.
  void fail_call(int64_t n, StatusCode code = StatusCode::kInternal) {
    fails_in_ = n;
    fail_code_ = code;
  }

  const DeviceProperties& properties() const override { return properties_; }
  Status enter() override;
  Result<int64_t> free_bytes() override;
  CUstream_st* stream() override { return &queue_; }

  Result<std::byte*> allocate(int64_t bytes) override;
  void release(std::byte* memory) override;
  Result<std::byte*> allocate_host(int64_t bytes) override;
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
  void release(Graph graph) override;
  Status fork_call(HostCall call) override;
  Status join_call() override;
  Result<Event> mark() override;
  Result<double> seconds_between(Event begin, Event end) override;
  void release(Event event) override;

 private:
  using Work = std::function<void()>;
  struct Queue final : CUstream_st {
    explicit Queue(EmulatedDevice& device_) : device(device_) {}
    void enqueue(Work work) override {
      ++device.stats_.launches;
      device.give(std::move(work));
    }
    EmulatedDevice& device;
  };

  // Runs the forked call, if it has not run yet: the host has no device memory meanwhile.
  void run_call();

  Status may_fail(const char* call);
  // Aborts unless [memory, memory + bytes) lies in one allocation of this device.
  void require_device(const std::byte* memory, int64_t bytes, const char* call) const;
  void give(Work work);
  void run_queue();
  uint64_t next_random();
  void set_poison(bool on);

  DeviceProperties properties_;
  std::thread::id entered_by_ = std::this_thread::get_id();
  Stats stats_;
  Queue queue_{*this};
  uint64_t random_state_;
  int64_t fails_in_ = 0;
  StatusCode fail_code_ = StatusCode::kInternal;
  int64_t allocated_bytes_ = 0;
  std::map<const std::byte*, int64_t> allocations_;  // of the device: begin -> bytes
  std::map<const std::byte*, int64_t> pinned_;
  std::vector<Work> pending_;
  HostCall forked_;          // of the queue's work: waits to be run, or null
  bool call_is_open_ = false;  // of what was given: forked, not joined
  bool capturing_ = false;
  std::vector<Work> captured_;
  uint64_t next_handle_ = 1;
  std::map<uint64_t, std::vector<Work>> graphs_;
  std::map<uint64_t, double> events_;  // seconds of the host's clock when the mark was reached
};

}  // namespace sluice
