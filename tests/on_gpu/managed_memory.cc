// main() of the kernel tests on a GPU. Their sources are those of the emulated grid and hand std::vectors to kernels, so
// here the heap itself is memory that both sides reach: operator new cuts blocks out of one managed arena. Kernels run
// one by one (CUDA_LAUNCH_BLOCKING), so that a result is there when its launcher returns.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

namespace {

constexpr size_t kArenaBytes = size_t{16} << 30;  // addresses; pages come when they are touched
constexpr size_t kHeader = 256;                   // before each block: its size class; keeps blocks aligned to 256
constexpr int kClasses = 48;

struct FreeBlock {
  FreeBlock* next;
};

std::byte* g_arena = nullptr;  // null: plain memory, before main()
size_t g_used = 0;
FreeBlock* g_free[kClasses] = {};
std::mutex g_mutex;

bool in_arena(const void* memory) {
  const auto* address = static_cast<const std::byte*>(memory);
  return g_arena && address >= g_arena && address < g_arena + kArenaBytes;
}

void* allocate(size_t bytes) {
  if (!g_arena) return std::malloc(bytes == 0 ? 1 : bytes);
  const int size_class = std::max(8, static_cast<int>(std::bit_width(bytes - (bytes > 0))));  // 2^class >= bytes
  const std::lock_guard lock(g_mutex);
  if (FreeBlock* block = g_free[size_class]) {
    g_free[size_class] = block->next;
    return block;
  }
  const size_t whole = kHeader + (size_t{1} << size_class);
  if (g_used + whole > kArenaBytes) return nullptr;
  std::byte* block = g_arena + g_used;
  g_used += whole;
  *reinterpret_cast<int*>(block) = size_class;
  return block + kHeader;
}

void release(void* memory) {
  if (!in_arena(memory)) {
    std::free(memory);
    return;
  }
  const std::lock_guard lock(g_mutex);
  const int size_class = *reinterpret_cast<int*>(static_cast<std::byte*>(memory) - kHeader);
  auto* block = static_cast<FreeBlock*>(memory);
  block->next = g_free[size_class];
  g_free[size_class] = block;
}

void* allocate_or_end(size_t bytes) {
  void* memory = allocate(bytes);
  if (!memory) {
    std::fprintf(stderr, "the arena of %zu bytes is full\n", kArenaBytes);
    std::abort();
  }
  return memory;
}

int refuse(const char* call, cudaError_t error) {
  std::fprintf(stderr, "cuda: %s: %s (%s)\n", call, cudaGetErrorName(error), cudaGetErrorString(error));
  return 1;
}

}  // namespace

void* operator new(size_t bytes) { return allocate_or_end(bytes); }
void* operator new[](size_t bytes) { return allocate_or_end(bytes); }
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t) noexcept { release(memory); }

int main(int argc, char** argv) {
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);  // read at the first call of CUDA
  cudaDeviceProp device{};
  if (const cudaError_t error = cudaGetDeviceProperties(&device, 0); error != cudaSuccess)
    return refuse("cudaGetDeviceProperties", error);
  int concurrent = 0;
  if (const cudaError_t error = cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, 0);
      error != cudaSuccess)
    return refuse("cudaDeviceGetAttribute", error);
  if (concurrent == 0) {
    std::fprintf(stderr, "%s: host and device cannot use managed memory at once, which these tests need\n", device.name);
    return 1;
  }
  void* arena = nullptr;
  if (const cudaError_t error = cudaMallocManaged(&arena, kArenaBytes); error != cudaSuccess)
    return refuse("cudaMallocManaged", error);
  g_arena = static_cast<std::byte*>(arena);
  std::printf("on %s\n", device.name);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
