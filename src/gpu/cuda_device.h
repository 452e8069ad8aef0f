// A CUDA device behind the Device seam: one stream and one for calls of the host beside it, the device's stream-ordered
// pool, pinned host memory, graphs, events. Knows CUDA only through the table of cuda_api.h. Every call is checked; an
// error says the call, where it was made, what CUDA says, and what to do about it where we know.
#pragma once

#include <memory>

#include "sluice/device.h"

#include "gpu/cuda_api.h"

namespace sluice {

class CudaDevice final : public Device {
 public:
  // FAILED_PRECONDITION without a driver, without a device of this index, or for one older than sm_80.
  static Result<std::unique_ptr<Device>> open(const CudaApi& api, int index);
  ~CudaDevice() override;

  const DeviceProperties& properties() const override { return properties_; }
  Status enter() override;
  Result<int64_t> free_bytes() override;
  CUstream_st* stream() override { return stream_; }

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
  CudaDevice(const CudaApi& api, int index) : api_(api), index_(index) {}

  const CudaApi& api_;
  const int index_;
  DeviceProperties properties_;
  CUstream_st* stream_ = nullptr;
  // Calls of the host run in a stream of their own, so that the queue's work goes on beside them. Made at the first call.
  Status make_call_stream();
  CUstream_st* call_stream_ = nullptr;
  void* forked_ = nullptr;  // events: what stands before the call is done,
  void* called_ = nullptr;  // and the call is
  bool call_is_open_ = false;  // forked, not joined: the queue does not wait for it
};

}  // namespace sluice
