// The calls of CUDA's runtime that the device layer makes, as a table: cuda_runtime.cc fills it from the toolkit, a
// test with calls that fail. Named as CUDA's without the prefix; CUDA's types are plain ones here, so that everything
// above compiles without a toolkit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sluice/device.h"

namespace sluice {

using CudaError = int;  // 0: success

struct CudaApi {
  const char* (*error_name)(CudaError);
  const char* (*error_text)(CudaError);

  CudaError (*device_count)(int* count);
  CudaError (*set_device)(int index);
  CudaError (*properties)(int index, DeviceProperties* properties);
  CudaError (*memory_info)(size_t* free, size_t* total);
  CudaError (*keep_pool)(int index);  // freed memory stays in the device's pool instead of going back to the system

  CudaError (*stream_create)(CUstream_st** stream);
  CudaError (*stream_destroy)(CUstream_st* stream);
  CudaError (*stream_synchronize)(CUstream_st* stream);
  CudaError (*stream_query)(CUstream_st* stream);

  CudaError (*stream_wait_event)(CUstream_st* stream, void* event);
  CudaError (*launch_host_func)(CUstream_st* stream, void (*call)(void* context), void* context);

  CudaError (*malloc_async)(void** memory, size_t bytes, CUstream_st* stream);
  CudaError (*free_async)(void* memory, CUstream_st* stream);
  CudaError (*malloc_host)(void** memory, size_t bytes);
  CudaError (*free_host)(void* memory);
  CudaError (*memcpy_async)(void* to, const void* from, size_t bytes, CUstream_st* stream);
  CudaError (*memset_async)(void* memory, int value, size_t bytes, CUstream_st* stream);

  CudaError (*stream_begin_capture)(CUstream_st* stream);
  CudaError (*stream_end_capture)(CUstream_st* stream, void** graph);
  CudaError (*graph_instantiate)(void** executable, void* graph);
  CudaError (*graph_destroy)(void* graph);
  CudaError (*graph_launch)(void* executable, CUstream_st* stream);
  CudaError (*graph_exec_destroy)(void* executable);

  CudaError (*event_create)(void** event);
  CudaError (*event_record)(void* event, CUstream_st* stream);
  CudaError (*event_elapsed_time)(float* milliseconds, void* begin, void* end);
  CudaError (*event_destroy)(void* event);
};

// Errors that get a hint of their own; the numbers are CUDA's and do not change (driver_types.h).
constexpr CudaError kCudaMemoryAllocation = 2;
constexpr CudaError kCudaInsufficientDriver = 35;
constexpr CudaError kCudaNoDevice = 100;
constexpr CudaError kCudaNoKernelImage = 209;
constexpr CudaError kCudaNotReady = 600;  // an answer rather than an error: work is left
constexpr CudaError kCudaIllegalAddress = 700;
constexpr CudaError kCudaSystemNotReady = 802;

}  // namespace sluice
