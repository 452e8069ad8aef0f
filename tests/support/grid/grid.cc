// The scheduler of the emulated grid. One CPU thread; the launch in progress is the one Grid below.
#include "tests/support/grid/grid.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <typeindex>
#include <utility>
#include <vector>

#include "tests/support/grid/fiber.h"
#include "tests/support/grid/store_buffer.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace sluice::grid {

namespace {

constexpr int kLanes = 32;
constexpr int kBarriers = 16;
constexpr int kMaxThreads = 1024;
// Turns of wait_until without any other progress after which nobody can be going to end it.
constexpr int64_t kMaxIdleTurns = 1'000'000;

struct Copy {
  void* target;
  const void* source;
  size_t bytes;
  bool valid;
  int64_t group;
};

struct Block;

struct Thread {
  explicit Thread(Fiber::Entry entry) : fiber(entry) {}

  Fiber fiber;
  Block* block = nullptr;
  int index = 0;
  uint3 thread_idx;
  const char* waits_in = nullptr;  // null: can run or has returned
  bool returned = false;
  std::vector<Copy> copies;  // of cp.async, not landed yet
  int64_t open_group = 0;    // copies issued now belong to it
};

struct Warp {
  const char* operation = nullptr;
  int argument = 0;
  int arrived = 0;
  const void* in[kLanes];
  void* out[kLanes];
};

struct Barrier {
  int threads = 0;
  std::vector<Thread*> waiting;
};

// new[] of the exact size, so that AddressSanitizer guards both ends.
struct SharedMemory {
  explicit SharedMemory(size_t bytes_) : bytes(bytes_), data(new (std::align_val_t{128}) std::byte[bytes_]) {
    std::memset(data, 0xFF, bytes);
  }
  bool owns(const void* address) const { return address >= data && address < data + bytes; }
  ~SharedMemory() { ::operator delete[](data, std::align_val_t{128}); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  size_t bytes;
  std::byte* data;
};

struct Block {
  uint3 block_idx;
  int running = 0;  // threads that have not returned
  std::vector<Thread*> threads;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  std::unique_ptr<SharedMemory> dynamic_memory;
  std::map<std::type_index, std::unique_ptr<SharedMemory>> static_memory;
  StoreBuffer stores;
};

void thread_main();

class Grid {
 public:
  void run(const std::function<void()>& body, dim3 grid, dim3 block, size_t shared_bytes);

  // Puts the current thread aside, or at the end of its kernel: the next one is drawn.
  void switch_away();
  void make_runnable(Thread* thread) {
    thread->waits_in = nullptr;
    runnable_.push_back(thread);
  }
  void start_next_block(Block& slot);
  void land(Thread& thread, size_t i);
  [[noreturn]] void deadlock();

  Options options_;
  LaunchStats stats_;
  uint64_t random_state_ = 1;
  const std::function<void()>* body_ = nullptr;
  Thread* current_ = nullptr;
  int64_t idle_turns_ = 0;
  std::vector<StoreBuffer> late_stores_;  // of blocks that have ended

 private:
  Fiber main_;
  std::deque<Thread> pool_;  // fibers outlive launches
  std::vector<Thread*> runnable_;
  std::vector<int64_t> order_;  // blocks not started yet, the next one last
  std::deque<Block> slots_;
  size_t shared_bytes_ = 0;
};

Grid g_grid;

void thread_main() {
  for (;;) {
    (*g_grid.body_)();
    Thread& thread = *g_grid.current_;
    while (!thread.copies.empty()) g_grid.land(thread, 0);
    thread.returned = true;
    g_grid.idle_turns_ = 0;
    if (--thread.block->running == 0) {
      thread.block->stores.hide();
      g_grid.late_stores_.push_back(std::exchange(thread.block->stores, StoreBuffer()));
      g_grid.start_next_block(*thread.block);
    }
    g_grid.switch_away();
  }
}

void Grid::run(const std::function<void()>& body, dim3 grid, dim3 block, size_t shared_bytes) {
  const auto threads = static_cast<size_t>(block.x) * block.y * block.z;
  if (threads == 0 || threads % kLanes != 0 || threads > kMaxThreads)
    fail("a block of %zu threads; expected a multiple of 32, at most %d", threads, kMaxThreads);
  if (current_) fail("a launch inside a kernel");
  blockDim = block;
  gridDim = grid;
  body_ = &body;
  shared_bytes_ = shared_bytes;
  stats_ = {};
  idle_turns_ = 0;
  random_state_ = options_.seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019;

  const auto blocks = static_cast<size_t>(grid.x) * grid.y * grid.z;
  for (size_t i = 0; i < blocks; ++i) order_.push_back(static_cast<int64_t>(i));
  for (size_t i = blocks; i > 1; --i) std::swap(order_[i - 1], order_[random_below(i)]);
  const size_t resident = std::min(blocks, static_cast<size_t>(options_.resident_blocks));
  while (pool_.size() < resident * threads) pool_.emplace_back(thread_main);
  slots_.clear();
  for (size_t slot = 0; slot < resident; ++slot) {
    Block& target = slots_.emplace_back();
    for (size_t i = 0; i < threads; ++i) {
      Thread* thread = &pool_[slot * threads + i];
      thread->block = &target;
      thread->index = static_cast<int>(i);
      const auto index = static_cast<unsigned>(i);
      thread->thread_idx = {index % block.x, index / block.x % block.y, index / (block.x * block.y)};
      target.threads.push_back(thread);
    }
    start_next_block(target);
  }
  switch_away();  // and back when the last thread has returned
  for (StoreBuffer& stores : late_stores_) stores.show();
  late_stores_.clear();
  slots_.clear();
  body_ = nullptr;
}

void Grid::start_next_block(Block& slot) {
  if (order_.empty()) return;
  const auto index = static_cast<uint64_t>(order_.back());
  order_.pop_back();
  slot.block_idx = {static_cast<unsigned>(index % gridDim.x), static_cast<unsigned>(index / gridDim.x % gridDim.y),
                    static_cast<unsigned>(index / (uint64_t{gridDim.x} * gridDim.y))};
  slot.running = static_cast<int>(slot.threads.size());
  slot.warps.assign(slot.threads.size() / kLanes, Warp{});
  for (Barrier& barrier : slot.barriers) barrier = {};
  slot.static_memory.clear();
  slot.dynamic_memory = std::make_unique<SharedMemory>(shared_bytes_);
  slot.stores.restart();
  for (Thread* thread : slot.threads) {
    thread->returned = false;
    thread->copies.clear();
    thread->open_group = 0;
    make_runnable(thread);
  }
}

void Grid::switch_away() {
  Fiber& from = current_ ? current_->fiber : main_;
  if (runnable_.empty()) {
    if (!current_) return;
    for (const Block& block : slots_)
      if (block.running > 0) deadlock();
    current_ = nullptr;
    Fiber::switch_between(from, main_);
    return;
  }
  const size_t pick = random_below(runnable_.size());
  Thread* next = runnable_[pick];
  runnable_[pick] = runnable_.back();
  runnable_.pop_back();
  Thread* self = current_;
  if (self && self->block != next->block) {
    self->block->stores.hide();
    next->block->stores.show();
  }
  current_ = next;
  ++stats_.switches;
  threadIdx = next->thread_idx;
  blockIdx = next->block->block_idx;
  Fiber::switch_between(from, next->fiber);
  // Back again: whoever switched here has set current_ and the indices; the caller of a launch has neither.
  if (self && current_ != self) fail("internal: woke the wrong fiber");
}

// One cp.async arrives.
void Grid::land(Thread& thread, size_t i) {
  const Copy copy = thread.copies[i];
  thread.copies[i] = thread.copies.back();
  thread.copies.pop_back();
  if (copy.valid) {
    std::memcpy(copy.target, copy.source, copy.bytes);
  } else {
    std::memset(copy.target, 0, copy.bytes);
  }
}

void Grid::deadlock() {
  std::map<std::string, int> where;
  for (const Block& block : slots_) {
    if (block.running == 0) continue;
    const std::string name = "block (" + std::to_string(block.block_idx.x) + ", " + std::to_string(block.block_idx.y) +
                             ", " + std::to_string(block.block_idx.z) + ")";
    for (const Thread* thread : block.threads)
      ++where[name + (thread->returned ? ": have returned" : ": wait in " + std::string(thread->waits_in))];
  }
  std::fprintf(stderr, "grid: deadlock; nobody can run\n");
  for (const auto& [text, count] : where) std::fprintf(stderr, "grid:   %d threads of %s\n", count, text.c_str());
  std::abort();
}

}  // namespace

void configure(const Options& options) { g_grid.options_ = options; }
const LaunchStats& last_launch() { return g_grid.stats_; }
void count_bank_conflicts(int64_t conflicts) { g_grid.stats_.bank_conflicts += conflicts; }

void fail(const char* format, ...) {
  std::fprintf(stderr, "grid: ");
  if (g_grid.current_)
    std::fprintf(stderr, "block (%u, %u, %u) thread %d: ", blockIdx.x, blockIdx.y, blockIdx.z, g_grid.current_->index);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  std::abort();
}

void run(const std::function<void()>& body, dim3 grid, dim3 block, size_t shared_bytes) {
  g_grid.run(body, grid, block, shared_bytes);
}

uint64_t random_below(uint64_t bound) {  // xorshift64*
  uint64_t& state = g_grid.random_state_;
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (state * 0x2545F4914F6CDD1D >> 32) % bound;
}

void* dynamic_shared_memory(size_t needed_bytes) {
  SharedMemory& memory = *g_grid.current_->block->dynamic_memory;
  if (needed_bytes > memory.bytes)
    fail("a shared memory plan of %zu bytes in a launch with %zu", needed_bytes, memory.bytes);
  return memory.data;
}

void* static_shared_memory(const std::type_info& type, size_t bytes) {
  auto& memory = g_grid.current_->block->static_memory[type];
  if (!memory) memory = std::make_unique<SharedMemory>(bytes);
  return memory->data;
}

void warp_operation(const char* name, const void* in, void* out, WarpCompute compute, int argument) {
  Thread* self = g_grid.current_;
  const int lane = self->index % kLanes;
  Warp& warp = self->block->warps[static_cast<size_t>(self->index / kLanes)];
  if (warp.arrived > 0 && (std::strcmp(warp.operation, name) != 0 || warp.argument != argument))
    fail("%s(%d) while another lane of its warp is in %s(%d)", name, argument, warp.operation, warp.argument);
  warp.operation = name;
  warp.argument = argument;
  warp.in[lane] = in;
  warp.out[lane] = out;
  if (++warp.arrived < kLanes) {
    self->waits_in = name;
    g_grid.switch_away();
    return;
  }
  g_grid.idle_turns_ = 0;
  compute(warp.in, warp.out, argument);
  warp.arrived = 0;
  if (std::strcmp(name, "warp_sync") == 0)
    self->block->stores.settle([&](int thread) { return thread / kLanes == self->index / kLanes; });
  const size_t first = static_cast<size_t>(self->index - lane);
  for (size_t i = first; i < first + kLanes; ++i) g_grid.make_runnable(self->block->threads[i]);
  g_grid.switch_away();
}

void barrier(int id, int threads) {
  Thread* self = g_grid.current_;
  if (id < 0 || id >= kBarriers) fail("barrier %d; expected [0, %d)", id, kBarriers);
  Barrier& barrier = self->block->barriers[id];
  if (!barrier.waiting.empty() && barrier.threads != threads)
    fail("barrier %d for %d threads and for %d at once", id, barrier.threads, threads);
  barrier.threads = threads;
  barrier.waiting.push_back(self);
  self->waits_in = id == 0 ? "__syncthreads" : "named_barrier";
  if (static_cast<int>(barrier.waiting.size()) == threads) {
    g_grid.idle_turns_ = 0;
    for (Thread* thread : barrier.waiting) g_grid.make_runnable(thread);
    self->block->stores.settle([&](int index) {
      return std::any_of(barrier.waiting.begin(), barrier.waiting.end(),
                         [&](const Thread* thread) { return thread->index == index; });
    });
    barrier.waiting.clear();
  }
  g_grid.switch_away();
}

void yield() {
  if (++g_grid.idle_turns_ > kMaxIdleTurns) fail("wait_until has been false for %ld turns", long{kMaxIdleTurns});
  g_grid.make_runnable(g_grid.current_);
  g_grid.switch_away();
}

// Stacks are a thread's own; only a warp operation's results go to those of other lanes. Shared memory is the block's.
void record_store(void* address, size_t bytes) {
  Thread* self = g_grid.current_;
  if (!self) return;
  const size_t first = static_cast<size_t>(self->index / kLanes) * kLanes;
  for (size_t i = first; i < first + kLanes; ++i)
    if (self->block->threads[i]->fiber.owns(address)) return;
  if (self->block->dynamic_memory->owns(address)) return;
  for (const auto& [type, memory] : self->block->static_memory)
    if (memory->owns(address)) return;
  self->block->stores.record(address, bytes, self->index);
}

void fence() {
  if (!g_grid.options_.ignore_fences) g_grid.current_->block->stores.fence(g_grid.current_->index);
}

void meet(const void* address, size_t bytes) { g_grid.current_->block->stores.land_at(address, bytes); }

void copy_later(void* target, const void* source, size_t bytes, bool valid) {
  if (reinterpret_cast<uintptr_t>(target) % bytes != 0 || (valid && reinterpret_cast<uintptr_t>(source) % bytes != 0))
    fail("cp_async_%zu from %p to %p: not aligned to %zu", bytes, source, target, bytes);
  Thread& thread = *g_grid.current_;
  std::memset(target, 0xFF, bytes);
  thread.copies.push_back({target, source, bytes, valid, thread.open_group});
  if (random_below(4) == 0) g_grid.land(thread, random_below(thread.copies.size()));
}

void commit_copies() { ++g_grid.current_->open_group; }

void wait_copies(int pending) {
  Thread& thread = *g_grid.current_;
  for (size_t i = 0; i < thread.copies.size();) {
    if (thread.copies[i].group < thread.open_group - pending) {
      g_grid.land(thread, i);
    } else {
      ++i;
    }
  }
}

}  // namespace sluice::grid

void __syncthreads() { sluice::grid::barrier(0, static_cast<int>(blockDim.x * blockDim.y * blockDim.z)); }
