// The seam between the CUDA engine and what runs it: a device has memory of its own and one queue of work, which it
// does in the order in which it was given while the host goes on. Two stand behind it: CUDA (src/gpu/cuda_device.h) and
// the emulated device of the tests (tests/support/grid/emulated_device.h), which is late on purpose. One thread at a time calls.
//
// Errors of a device may show at a later call than the one that caused them; after INTERNAL the device is lost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "sluice/status.h"

struct CUstream_st;

namespace sluice {

struct DeviceProperties {
  std::string name;
  int64_t memory_bytes = 0;
  int32_t multiprocessors = 0;
  int32_t shared_bytes_of_block = 0;  // at most, when a launch asks for them
  int32_t capability = 0;             // 10 * major + minor: 80, 89, 90
};

class Device {
 public:
  enum class Graph : uint64_t {};
  enum class Event : uint64_t {};

  virtual ~Device() = default;

  virtual const DeviceProperties& properties() const = 0;
  // Makes the device the calling thread's; before any other call from a thread that did not open it.
  virtual Status enter() = 0;
  virtual Result<int64_t> free_bytes() = 0;
  virtual CUstream_st* stream() = 0;  // the queue, for launches of kernels

  // Memory of the device, aligned to 256 bytes, in the order of the queue: what a release gives back may serve an
  // allocate at once. RESOURCE_EXHAUSTED with what was asked for and what is free.
  virtual Result<std::byte*> allocate(int64_t bytes) = 0;
  virtual void release(std::byte* memory) = 0;
  // Memory of the host that copies reach without a detour (pinned).
  virtual Result<std::byte*> allocate_host(int64_t bytes) = 0;
  virtual void release_host(std::byte* memory) = 0;

  // Into the queue. Memory of the host must stay as it is until wait() has returned.
  virtual Status copy_in(std::byte* device, const std::byte* host, int64_t bytes) = 0;
  virtual Status copy_out(std::byte* host, const std::byte* device, int64_t bytes) = 0;
  virtual Status copy(std::byte* to, const std::byte* from, int64_t bytes) = 0;
  virtual Status fill(std::byte* device, uint8_t value, int64_t bytes) = 0;
  // Returns when all work given so far is done.
  virtual Status wait() = 0;
  // Whether it is done; for whoever must not wait without end, as behind work that waits for another device.
  virtual Result<bool> done() = 0;

  // Between these two, work is written down instead of done: kernels with the arguments of their launch, copies with
  // their addresses. replay() gives all of it to the queue in one call.
  virtual Status begin_capture() = 0;
  virtual Result<Graph> end_capture() = 0;
  virtual Status replay(Graph graph) = 0;
  virtual void release(Graph graph) = 0;

  // A call of the host at this place of the queue: behind what was given before, beside what is given from now on, until
  // join_call(); what is given after that comes behind it. One at a time. It may not call a device, and what `context`
  // points to outlives every graph that it was written down in.
  struct HostCall {
    void (*run)(void* context) = nullptr;
    void* context = nullptr;
  };
  // An error on the way leaves the call open, or not begun; wait() waits for it all the same.
  virtual Status fork_call(HostCall call) = 0;
  virtual Status join_call() = 0;

  // A mark in the queue; seconds between two, once wait() has returned.
  virtual Result<Event> mark() = 0;
  virtual Result<double> seconds_between(Event begin, Event end) = 0;
  virtual void release(Event event) = 0;
};

}  // namespace sluice
