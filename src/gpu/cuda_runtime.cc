// The table of cuda_api.h from CUDA's runtime: the one file of this room with CUDA's headers. Each entry is one call.
#include "gpu/cuda_runtime.h"

#include <cuda_runtime_api.h>

#include <limits>

namespace sluice {

namespace {

cudaError_t read_properties(int index, DeviceProperties& out) {
  cudaDeviceProp found{};
  if (const cudaError_t error = cudaGetDeviceProperties(&found, index); error != cudaSuccess) return error;
  out = {.name = found.name,
         .memory_bytes = static_cast<int64_t>(found.totalGlobalMem),
         .multiprocessors = found.multiProcessorCount,
         .shared_bytes_of_block = static_cast<int32_t>(found.sharedMemPerBlockOptin),
         .capability = found.major * 10 + found.minor};
  return cudaSuccess;
}

cudaError_t keep_pool(int index) {
  cudaMemPool_t pool = nullptr;
  if (const cudaError_t error = cudaDeviceGetDefaultMemPool(&pool, index); error != cudaSuccess) return error;
  uint64_t threshold = std::numeric_limits<uint64_t>::max();
  return cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold);
}

cudaGraphExec_t executable_of(void* pointer) { return static_cast<cudaGraphExec_t>(pointer); }
cudaEvent_t event_of(void* pointer) { return static_cast<cudaEvent_t>(pointer); }

static_assert(cudaErrorMemoryAllocation == kCudaMemoryAllocation && cudaErrorNoDevice == kCudaNoDevice &&
              cudaErrorInsufficientDriver == kCudaInsufficientDriver &&
              cudaErrorNoKernelImageForDevice == kCudaNoKernelImage && cudaErrorNotReady == kCudaNotReady &&
              cudaErrorIllegalAddress == kCudaIllegalAddress && cudaErrorSystemNotReady == kCudaSystemNotReady);

constexpr CudaApi kRuntime{
    .error_name = [](CudaError error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); },
    .error_text = [](CudaError error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); },
    .device_count = [](int* count) -> CudaError { return cudaGetDeviceCount(count); },
    .set_device = [](int index) -> CudaError { return cudaSetDevice(index); },
    .properties = [](int index, DeviceProperties* out) -> CudaError { return read_properties(index, *out); },
    .memory_info = [](size_t* free, size_t* total) -> CudaError { return cudaMemGetInfo(free, total); },
    .keep_pool = [](int index) -> CudaError { return keep_pool(index); },
    .stream_create = [](CUstream_st** stream) -> CudaError {
      return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
    },
    .stream_destroy = [](CUstream_st* stream) -> CudaError { return cudaStreamDestroy(stream); },
    .stream_synchronize = [](CUstream_st* stream) -> CudaError { return cudaStreamSynchronize(stream); },
    .stream_query = [](CUstream_st* stream) -> CudaError { return cudaStreamQuery(stream); },
    .stream_wait_event = [](CUstream_st* stream, void* event) -> CudaError {
      return cudaStreamWaitEvent(stream, event_of(event), 0);
    },
    .launch_host_func = [](CUstream_st* stream, void (*call)(void*), void* context) -> CudaError {
      return cudaLaunchHostFunc(stream, call, context);
    },
    .malloc_async = [](void** memory, size_t bytes, CUstream_st* stream) -> CudaError {
      return cudaMallocAsync(memory, bytes, stream);
    },
    .free_async = [](void* memory, CUstream_st* stream) -> CudaError { return cudaFreeAsync(memory, stream); },
    .malloc_host = [](void** memory, size_t bytes) -> CudaError { return cudaMallocHost(memory, bytes); },
    .free_host = [](void* memory) -> CudaError { return cudaFreeHost(memory); },
    .memcpy_async = [](void* to, const void* from, size_t bytes, CUstream_st* stream) -> CudaError {
      return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
    },
    .memset_async = [](void* memory, int value, size_t bytes, CUstream_st* stream) -> CudaError {
      return cudaMemsetAsync(memory, value, bytes, stream);
    },
    // This thread alone: others (gRPC's, and CUDA's own that runs calls of the host) call nothing of CUDA's.
    .stream_begin_capture = [](CUstream_st* stream) -> CudaError {
      return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    },
    .stream_end_capture = [](CUstream_st* stream, void** graph) -> CudaError {
      return cudaStreamEndCapture(stream, reinterpret_cast<cudaGraph_t*>(graph));
    },
    .graph_instantiate = [](void** executable, void* graph) -> CudaError {
      return cudaGraphInstantiate(reinterpret_cast<cudaGraphExec_t*>(executable), static_cast<cudaGraph_t>(graph), 0);
    },
    .graph_destroy = [](void* graph) -> CudaError { return cudaGraphDestroy(static_cast<cudaGraph_t>(graph)); },
    .graph_launch = [](void* executable, CUstream_st* stream) -> CudaError {
      return cudaGraphLaunch(executable_of(executable), stream);
    },
    .graph_exec_destroy = [](void* executable) -> CudaError { return cudaGraphExecDestroy(executable_of(executable)); },
    .event_create = [](void** event) -> CudaError { return cudaEventCreate(reinterpret_cast<cudaEvent_t*>(event)); },
    .event_record = [](void* event, CUstream_st* stream) -> CudaError {
      return cudaEventRecord(event_of(event), stream);
    },
    .event_elapsed_time = [](float* milliseconds, void* begin, void* end) -> CudaError {
      return cudaEventElapsedTime(milliseconds, event_of(begin), event_of(end));
    },
    .event_destroy = [](void* event) -> CudaError { return cudaEventDestroy(event_of(event)); },
};

}  // namespace

const CudaApi& cuda_runtime() { return kRuntime; }

}  // namespace sluice
