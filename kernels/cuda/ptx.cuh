// The device half of the named wrappers: each one instruction or builtin of CUDA. Their host twins, which follow the
// lane layouts documented for them in the PTX ISA, are tests/support/grid/instructions.h; an instruction that a kernel
// needs is added to both. Only device.cuh includes this file.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/types.h"

namespace sluice::cuda {

// ---- Shared memory. A kernel has one plan, either of a fixed size or as large as its launch says.

template <typename Plan>
__device__ __forceinline__ Plan& static_shared() {
  __shared__ Plan plan;
  return plan;
}

template <typename Plan>
__device__ __forceinline__ Plan& dynamic_shared() {
  extern __shared__ __align__(128) unsigned char sluice_dynamic_shared[];
  return *reinterpret_cast<Plan*>(sluice_dynamic_shared);
}

// ---- Within a warp; all 32 lanes take part.

__device__ __forceinline__ void warp_sync() { __syncwarp(); }

template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
template <typename T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(0xFFFFFFFFu, value, lane);
}
// Lanes below delta keep their own value.
template <typename T>
__device__ __forceinline__ T shuffle_up(T value, int delta) {
  return __shfl_up_sync(0xFFFFFFFFu, value, delta);
}
__device__ __forceinline__ uint32_t ballot(bool predicate) { return __ballot_sync(0xFFFFFFFFu, predicate); }
// The lanes that bring the same value.
__device__ __forceinline__ uint32_t match_any(uint32_t value) { return __match_any_sync(0xFFFFFFFFu, value); }
__device__ __forceinline__ uint32_t warp_max_u32(uint32_t value) { return __reduce_max_sync(0xFFFFFFFFu, value); }

// ---- Within a block and between blocks.

// Barrier `id` in [1, 16) for `threads` threads, a multiple of 32; 0 is __syncthreads.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ int32_t atomic_add(int32_t* address, int32_t value) { return atomicAdd(address, value); }
__device__ __forceinline__ uint32_t atomic_add(uint32_t* address, uint32_t value) { return atomicAdd(address, value); }
__device__ __forceinline__ uint64_t atomic_add(uint64_t* address, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}
__device__ __forceinline__ void thread_fence() { __threadfence(); }

__device__ __forceinline__ int32_t load_acquire(const int32_t* address) {
  int32_t value;
  asm volatile("ld.global.acquire.gpu.s32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ __forceinline__ void store_release(int32_t* address, int32_t value) {
  asm volatile("st.global.release.gpu.s32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// Spins until ready() holds, which another block makes true. Only for grids whose blocks are all resident.
template <typename Ready>
__device__ __forceinline__ void wait_until(Ready&& ready) {
  while (!ready()) __nanosleep(64);
}

// ---- Memory.

// 16 bytes that another block of this launch has written: from L2, past this multiprocessor's own cache.
__device__ __forceinline__ Vec16 load16_fresh(const void* address) {
  Vec16 value;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.words[0]), "=r"(value.words[1]), "=r"(value.words[2]), "=r"(value.words[3])
               : "l"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, or zeros if not valid; both addresses aligned to 16. Lands before the wait
// that covers its group returns, and is seen by other threads after a barrier that follows that wait.
__device__ __forceinline__ void cp_async_16(void* target, const void* source, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}
// 4 bytes, both addresses aligned to 4.
__device__ __forceinline__ void cp_async_4(void* target, const void* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(target)), "l"(source) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the newest kPending groups have landed.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane 8 m + r gives the address of row r of matrix m, 16 bytes in shared memory.
// Word m of lane l: elements (row l / 4, columns 2 (l % 4) and + 1) of matrix m; transposed: of its transpose.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

// ---- Matrix units: d += a b over a warp. Layouts: instructions.h and the PTX ISA, "Matrix Fragments for mma".

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- Bits and numbers.

// (word & mask) | bits, in one instruction.
__device__ __forceinline__ uint32_t and_or(uint32_t word, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
}
// Bytes of (high:low) chosen by the four nibbles of the selector.
__device__ __forceinline__ uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}

// The upper 64 bits of the product.
__device__ __forceinline__ uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

__device__ __forceinline__ float bits_to_f32(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t f32_to_bits(float value) { return __float_as_uint(value); }

// Both rounded to nearest even; `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ float to_f32(f16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}
// a * b + c on both halves, one rounding each.
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

__device__ __forceinline__ float fma_f32(float a, float b, float c) { return __fmaf_rn(a, b, c); }
// The product alone, which the compiler may not make part of an fma.
__device__ __forceinline__ float multiply_f32(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float max_f32(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float exp_f32(float x) { return expf(x); }
__device__ __forceinline__ float log_f32(float x) { return logf(x); }
__device__ __forceinline__ float log1p_f32(float x) { return log1pf(x); }
__device__ __forceinline__ float log2_f32(float x) { return log2f(x); }
__device__ __forceinline__ float sqrt_f32(float x) { return __fsqrt_rn(x); }
// 2^x to 2 units in the last place of f32; denormal results are zero.
__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ int first_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }
__device__ __forceinline__ int count_bits(uint32_t bits) { return __popc(bits); }

// ---- Launch. A launch that CUDA refuses is a bug in the plan that chose it, so it ends the process.

inline void require(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda: %s: %s (%s)\n", call, cudaGetErrorName(error), cudaGetErrorString(error));
  std::abort();
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream,
            const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr size_t kWithoutAsking = 48 * 1024;  // more needs the attribute, up to the device's limit
  if (shared_bytes > kWithoutAsking)
    require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
            "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)");
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  require(cudaGetLastError(), "kernel launch");
}

}  // namespace sluice::cuda
