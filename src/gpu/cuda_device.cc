#include "gpu/cuda_device.h"

#include <source_location>

#include "sluice/log.h"

namespace sluice {

namespace {

constexpr int32_t kOldestCapability = 80;  // cp.async, mma.sync on bf16

const char* hint(CudaError error) {
  switch (error) {
    case kCudaMemoryAllocation:
      return "; nvidia-smi lists who else uses the device; a smaller --cache-memory-mib or --max-batch-tokens needs less";
    case kCudaInsufficientDriver:
      return "; the driver is missing or older than the toolkit that this was built with: nvidia-smi shows its version";
    case kCudaNoDevice:
      return "; nvidia-smi lists the devices; CUDA_VISIBLE_DEVICES and the container's --gpus may hide them";
    case kCudaNoKernelImage:
      return "; this build holds code for sm_80, sm_89, sm_90a and PTX for newer ones";
    case kCudaIllegalAddress:
      return "; a kernel went out of bounds: compute-sanitizer names it";
    case kCudaSystemNotReady:
      return "; the fabric manager of this machine does not run";
    default:
      return "";
  }
}

// The error of `call` as a Status that says where the call was made.
Status check(const CudaApi& api, CudaError error, const char* call,
             std::source_location where = std::source_location::current()) {
  if (error == 0) return {};
  std::string file = where.file_name();
  file = file.substr(file.rfind('/') + 1);
  const std::string text = fmt::format("cuda: {} ({}:{}): {} ({}){}", call, file, where.line(), api.error_name(error),
                                       api.error_text(error), hint(error));
  switch (error) {
    case kCudaMemoryAllocation:
      return {StatusCode::kResourceExhausted, text};
    case kCudaInsufficientDriver:
    case kCudaNoDevice:
    case kCudaNoKernelImage:
    case kCudaSystemNotReady:
      return {StatusCode::kFailedPrecondition, text};
    default:
      return {StatusCode::kInternal, text};
  }
}

// Where nobody is left to hand a Status to.
void log_failure(const Status& status) {
  if (!status.ok()) log_error("{}", status.message());
}

constexpr double kMiB = 1 << 20;

template <typename Handle>
void* pointer_of(Handle handle) {
  return reinterpret_cast<void*>(static_cast<uintptr_t>(handle));
}
template <typename Handle>
Handle handle_of(void* pointer) {
  return Handle{reinterpret_cast<uintptr_t>(pointer)};
}

}  // namespace

Result<std::unique_ptr<Device>> CudaDevice::open(const CudaApi& api, int index) {
  int count = 0;
  SLUICE_RETURN_IF_ERROR(check(api, api.device_count(&count), "cudaGetDeviceCount"));
  if (index < 0 || index >= count)
    return failed_precondition("device: expected a CUDA device in [0, {}), found {}{}", count, index,
                               count == 0 ? hint(kCudaNoDevice) : "");
  std::unique_ptr<CudaDevice> device(new CudaDevice(api, index));
  SLUICE_RETURN_IF_ERROR(device->enter());
  SLUICE_RETURN_IF_ERROR(check(api, api.properties(index, &device->properties_), "cudaGetDeviceProperties"));
  const DeviceProperties& found = device->properties_;
  if (found.capability < kOldestCapability)
    return failed_precondition("device: {} has compute capability {}.{}; expected 8.0 or newer", found.name,
                               found.capability / 10, found.capability % 10);
  SLUICE_RETURN_IF_ERROR(check(api, api.keep_pool(index), "cudaMemPoolSetAttribute"));
  SLUICE_RETURN_IF_ERROR(check(api, api.stream_create(&device->stream_), "cudaStreamCreateWithFlags"));
  return std::unique_ptr<Device>(std::move(device));
}

CudaDevice::~CudaDevice() {
  if (!stream_) return;
  log_failure(check(api_, api_.stream_synchronize(stream_), "cudaStreamSynchronize"));
  if (call_stream_) {
    log_failure(check(api_, api_.stream_synchronize(call_stream_), "cudaStreamSynchronize"));
    log_failure(check(api_, api_.stream_destroy(call_stream_), "cudaStreamDestroy"));
  }
  for (void* event : {forked_, called_})
    if (event) log_failure(check(api_, api_.event_destroy(event), "cudaEventDestroy"));
  log_failure(check(api_, api_.stream_destroy(stream_), "cudaStreamDestroy"));
}

Status CudaDevice::enter() { return check(api_, api_.set_device(index_), "cudaSetDevice"); }

Result<int64_t> CudaDevice::free_bytes() {
  size_t free = 0, total = 0;
  SLUICE_RETURN_IF_ERROR(check(api_, api_.memory_info(&free, &total), "cudaMemGetInfo"));
  return static_cast<int64_t>(free);
}

Result<std::byte*> CudaDevice::allocate(int64_t bytes) {
  void* memory = nullptr;
  const Status status =
      check(api_, api_.malloc_async(&memory, static_cast<size_t>(bytes), stream_), "cudaMallocAsync");
  if (status.ok()) return static_cast<std::byte*>(memory);
  size_t free = 0, total = 0;
  api_.memory_info(&free, &total);  // 0 where even that fails
  return status.with_context(fmt::format("{:.1f} MiB of {:.1f} MiB free", static_cast<double>(bytes) / kMiB,
                                         static_cast<double>(free) / kMiB));
}

void CudaDevice::release(std::byte* memory) {
  log_failure(check(api_, api_.free_async(memory, stream_), "cudaFreeAsync"));
}

Result<std::byte*> CudaDevice::allocate_host(int64_t bytes) {
  void* memory = nullptr;
  const Status status = check(api_, api_.malloc_host(&memory, static_cast<size_t>(bytes)), "cudaMallocHost");
  if (status.ok()) return static_cast<std::byte*>(memory);
  return status.with_context(fmt::format("{:.1f} MiB of pinned host memory", static_cast<double>(bytes) / kMiB));
}

void CudaDevice::release_host(std::byte* memory) { log_failure(check(api_, api_.free_host(memory), "cudaFreeHost")); }

// The direction follows from the addresses (cudaMemcpyDefault).
Status CudaDevice::copy_in(std::byte* device, const std::byte* host, int64_t bytes) {
  return check(api_, api_.memcpy_async(device, host, static_cast<size_t>(bytes), stream_), "cudaMemcpyAsync to device");
}
Status CudaDevice::copy_out(std::byte* host, const std::byte* device, int64_t bytes) {
  return check(api_, api_.memcpy_async(host, device, static_cast<size_t>(bytes), stream_), "cudaMemcpyAsync to host");
}
Status CudaDevice::copy(std::byte* to, const std::byte* from, int64_t bytes) {
  return check(api_, api_.memcpy_async(to, from, static_cast<size_t>(bytes), stream_), "cudaMemcpyAsync on device");
}
Status CudaDevice::fill(std::byte* device, uint8_t value, int64_t bytes) {
  return check(api_, api_.memset_async(device, value, static_cast<size_t>(bytes), stream_), "cudaMemsetAsync");
}
Status CudaDevice::wait() {
  SLUICE_RETURN_IF_ERROR(check(api_, api_.stream_synchronize(stream_), "cudaStreamSynchronize"));
  if (!call_is_open_) return {};
  call_is_open_ = false;
  return check(api_, api_.stream_synchronize(call_stream_), "cudaStreamSynchronize");
}

Result<bool> CudaDevice::done() {
  const CudaError error = api_.stream_query(stream_);
  if (error == kCudaNotReady) return false;
  SLUICE_RETURN_IF_ERROR(check(api_, error, "cudaStreamQuery"));
  return true;
}

Status CudaDevice::begin_capture() {
  return check(api_, api_.stream_begin_capture(stream_), "cudaStreamBeginCapture");
}

Result<Device::Graph> CudaDevice::end_capture() {
  void *graph = nullptr, *executable = nullptr;
  SLUICE_RETURN_IF_ERROR(check(api_, api_.stream_end_capture(stream_, &graph), "cudaStreamEndCapture"));
  const Status status = check(api_, api_.graph_instantiate(&executable, graph), "cudaGraphInstantiate");
  log_failure(check(api_, api_.graph_destroy(graph), "cudaGraphDestroy"));
  SLUICE_RETURN_IF_ERROR(status);
  return handle_of<Graph>(executable);
}

Status CudaDevice::replay(Graph graph) {
  return check(api_, api_.graph_launch(pointer_of(graph), stream_), "cudaGraphLaunch");
}

void CudaDevice::release(Graph graph) {
  log_failure(check(api_, api_.graph_exec_destroy(pointer_of(graph)), "cudaGraphExecDestroy"));
}

Status CudaDevice::make_call_stream() {
  if (!forked_) SLUICE_RETURN_IF_ERROR(check(api_, api_.event_create(&forked_), "cudaEventCreate"));
  if (!called_) SLUICE_RETURN_IF_ERROR(check(api_, api_.event_create(&called_), "cudaEventCreate"));
  if (call_stream_) return {};
  return check(api_, api_.stream_create(&call_stream_), "cudaStreamCreateWithFlags");
}

// In a capture the waits for events make the other stream's work part of the graph, and join_call() brings it back.
Status CudaDevice::fork_call(HostCall call) {
  SLUICE_RETURN_IF_ERROR(make_call_stream());
  SLUICE_RETURN_IF_ERROR(check(api_, api_.event_record(forked_, stream_), "cudaEventRecord"));
  SLUICE_RETURN_IF_ERROR(check(api_, api_.stream_wait_event(call_stream_, forked_), "cudaStreamWaitEvent"));
  SLUICE_RETURN_IF_ERROR(
      check(api_, api_.launch_host_func(call_stream_, call.run, call.context), "cudaLaunchHostFunc"));
  call_is_open_ = true;
  return check(api_, api_.event_record(called_, call_stream_), "cudaEventRecord");
}

Status CudaDevice::join_call() {
  SLUICE_RETURN_IF_ERROR(check(api_, api_.stream_wait_event(stream_, called_), "cudaStreamWaitEvent"));
  call_is_open_ = false;
  return {};
}

Result<Device::Event> CudaDevice::mark() {
  void* event = nullptr;
  SLUICE_RETURN_IF_ERROR(check(api_, api_.event_create(&event), "cudaEventCreate"));
  const Status status = check(api_, api_.event_record(event, stream_), "cudaEventRecord");
  if (status.ok()) return handle_of<Event>(event);
  log_failure(check(api_, api_.event_destroy(event), "cudaEventDestroy"));
  return status;
}

Result<double> CudaDevice::seconds_between(Event begin, Event end) {
  float milliseconds = 0;
  SLUICE_RETURN_IF_ERROR(check(api_, api_.event_elapsed_time(&milliseconds, pointer_of(begin), pointer_of(end)),
                               "cudaEventElapsedTime"));
  return double{milliseconds} * 1e-3;
}

void CudaDevice::release(Event event) {
  log_failure(check(api_, api_.event_destroy(pointer_of(event)), "cudaEventDestroy"));
}

}  // namespace sluice
