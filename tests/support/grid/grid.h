// A CUDA grid on one CPU thread: what <cuda_runtime.h> gives a kernel body, for the host compiler.
//
//   launch -> several blocks resident at once -> a fiber per thread -> runs alone until it meets one of
//             __syncthreads, a warp operation, wait_until  -> the next fiber is drawn at random from those that can run
//
// The order is a pure function of the seed. A missing barrier therefore shows as a wrong or unstable result: shared
// memory starts as 0xFF bytes (NaN, -1) and cp.async targets stay so until the copy lands, at a random moment before
// the wait that covers it. Under AddressSanitizer an out-of-bounds access, shared memory included, stops at its line.
// What cannot go on (a barrier that nobody completes, lanes of a warp in different operations, a misaligned 16-byte
// access) prints where and aborts.
//
// It does not model timing or caches. A missing fence is found where stores are recorded (tests/support/weak_grid).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <typeinfo>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the fiber that runs now; set at every switch.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

void __syncthreads();

// Accesses that no store buffer holds back: not recorded.
#define SLUICE_GRID_DIRECT __attribute__((noinline, no_sanitize("thread")))

// What a Stream points to here: a queue of work. Launches into the null stream run where they stand.
struct CUstream_st {
  virtual ~CUstream_st() = default;
  virtual void enqueue(std::function<void()> work) = 0;
};

namespace sluice::grid {

// How launches run from now on, on this thread.
struct Options {
  uint64_t seed = 1;
  int resident_blocks = 4;     // at most; wait_until needs as many as the grid has
  bool ignore_fences = false;  // plants the bug that weak_grid exists to catch
};
void configure(const Options& options);

struct LaunchStats {
  int64_t switches = 0;
  int64_t bank_conflicts = 0;  // of ldmatrix: 16-byte rows of one 8x8 matrix that share banks
};
const LaunchStats& last_launch();

// Prints the message with the block and thread that runs now, and aborts.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void run(const std::function<void()>& body, dim3 grid, dim3 block, size_t shared_bytes);

// Memory of the current block, filled with 0xFF at its start; one object per type for static memory.
void* dynamic_shared_memory(size_t needed_bytes);
void* static_shared_memory(const std::type_info& type, size_t bytes);

// All 32 lanes of the current warp bring an operand and a place for the result; the last to come runs compute(in, out).
using WarpCompute = void (*)(const void* const (&in)[32], void* const (&out)[32], int argument);
void warp_operation(const char* name, const void* in, void* out, WarpCompute compute, int argument = 0);

void barrier(int id, int threads);
void yield();  // lets others run
uint64_t random_below(uint64_t bound);
void count_bank_conflicts(int64_t conflicts);

// Memory order (store_buffer.h); without recorded stores these do nothing.
void record_store(void* address, size_t bytes);
void fence();
void meet(const void* address, size_t bytes);  // past the buffer: an atomic operation

// cp.async of the current thread.
void copy_later(void* target, const void* source, size_t bytes, bool valid);
void commit_copies();
void wait_copies(int pending);

}  // namespace sluice::grid

#include "tests/support/grid/instructions.h"
