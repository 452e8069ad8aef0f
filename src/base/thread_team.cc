// Spin-then-park helpers over one claim counter; the picture is in the header.
#include "sluice/thread_team.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <cmath>

#include "sluice/check.h"

#include "base/machine_limits.h"

namespace sluice {

namespace {

// About 20-40 us of PAUSE before a helper parks: longer than the serial gaps inside a step (a few us), far shorter than
// an idle server's pause between requests.
constexpr int kSpins = 1000;
// After this many pauses without progress the caller yields its core: the helper that holds the last chunk may be
// waiting for exactly this core when a foreign process occupies the other one.
constexpr int kSpinsBeforeYield = 2000;

// A chunk number that no job reaches: nothing can be claimed.
constexpr uint32_t kClosed = 0xffffffff;

constexpr uint64_t ticket(uint32_t job, uint32_t chunk) { return (uint64_t{job} << 32) | chunk; }
constexpr uint32_t job_of(uint64_t value) { return static_cast<uint32_t>(value >> 32); }
constexpr uint32_t chunk_of(uint64_t value) { return static_cast<uint32_t>(value); }

}  // namespace

int ThreadTeam::available_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  const int allowed = std::max(1, CPU_COUNT(&set));
  // A container's quota: threads beyond it are stopped in turn, and every step waits for the one that is.
  if (const auto quota = group_limits().cpus) return std::clamp(static_cast<int>(std::ceil(*quota)), 1, allowed);
  return allowed;
}

ThreadTeam::ThreadTeam(int size) {
  SLUICE_CHECK(size >= 1, "size={}", size);
  for (int rank = 1; rank < size; ++rank) helpers_.emplace_back([this, rank] { help(rank); });
}

ThreadTeam::~ThreadTeam() {
  stopping_.store(true);
  job_.fetch_add(1);
  job_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadTeam::run(int64_t count, int64_t grain, Trampoline call, const void* context) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (helpers_.empty() || count <= grain) {
    for (int64_t begin = 0; begin < count; begin += grain) call(context, begin, std::min(begin + grain, count), 0);
    return;
  }
  const int64_t num_chunks = (count + grain - 1) / grain;
  SLUICE_CHECK(num_chunks < kClosed, "chunks={}", num_chunks);

  const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
  // Close the old ticket, write the fields, open the new one. Without the first step a late helper could pair the old
  // ticket with the new fields, and claim a chunk twice. Each field is a release: whoever reads a new one (acquire)
  // finds the old ticket closed.
  ticket_.store(ticket(job, kClosed), std::memory_order_relaxed);
  finished_.store(0, std::memory_order_release);
  call_.store(call, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  count_.store(count, std::memory_order_release);
  grain_.store(grain, std::memory_order_release);
  ticket_.store(ticket(job, 0), std::memory_order_release);
  job_.store(job, std::memory_order_seq_cst);
  if (parked_.load(std::memory_order_seq_cst) > 0) job_.notify_all();

  work(job, 0);
  for (int spins = 0; finished_.load(std::memory_order_acquire) != num_chunks; ++spins) {
    _mm_pause();
    if (spins >= kSpinsBeforeYield) sched_yield();
  }
}

void ThreadTeam::work(uint32_t job, int rank) {
  uint64_t seen = ticket_.load(std::memory_order_acquire);
  while (job_of(seen) == job) {
    const Trampoline call = call_.load(std::memory_order_acquire);
    const void* context = context_.load(std::memory_order_acquire);
    const int64_t count = count_.load(std::memory_order_acquire);
    const int64_t grain = grain_.load(std::memory_order_acquire);
    const int64_t begin = static_cast<int64_t>(chunk_of(seen)) * grain;
    if (begin >= count) return;
    // Success proves that the fields just read are those of `job`: had one been of a later job, the ticket were closed.
    if (!ticket_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    call(context, begin, std::min(begin + grain, count), rank);
    finished_.fetch_add(1, std::memory_order_release);
    seen = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadTeam::help(int rank) {
  uint32_t done = 0;
  while (true) {
    uint32_t job = job_.load(std::memory_order_acquire);
    for (int spins = 0; job == done && spins < kSpins; ++spins) {
      _mm_pause();
      job = job_.load(std::memory_order_acquire);
    }
    if (job == done) {
      parked_.fetch_add(1, std::memory_order_seq_cst);
      job_.wait(done, std::memory_order_seq_cst);
      parked_.fetch_sub(1, std::memory_order_seq_cst);
      continue;
    }
    if (stopping_.load()) return;
    work(job, rank);
    done = job;
  }
}

}  // namespace sluice
