// A fixed team of threads for the kernels. Rank 0 is the calling thread; helpers spin briefly after a job and
// then park, so that an idle server burns nothing.
//
// Work is handed out in chunks from one shared counter. A helper that the machine has taken away (a foreign
// process on its core) simply claims no chunk: the caller only waits for chunks that somebody has claimed.
//
//   ticket_ (64 bits) = [ job number : 32 | next chunk : 32 ]     claimed by compare-and-swap, so that a helper
//                                                                 that wakes late cannot claim a later job's chunk
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace sluice {

class ThreadTeam {
 public:
  // size >= 1; 1 runs everything on the caller.
  explicit ThreadTeam(int size);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls body(begin, end, rank) for half-open chunks of at most `grain` that cover [0, count) exactly once;
  // rank in [0, size()) names the thread's workspace. Returns when all are done. Only one caller at a time.
  // What a chunk computes must not depend on who runs it or when: that is the rule of same bits.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, const Body& body) {
    run(
        count, grain,
        [](const void* context, int64_t begin, int64_t end, int rank) {
          (*static_cast<const Body*>(context))(begin, end, rank);
        },
        &body);
  }

  // Threads that this process may run on (its affinity mask), the default size.
  static int available_cpus();

 private:
  using Trampoline = void (*)(const void*, int64_t, int64_t, int);

  void run(int64_t count, int64_t grain, Trampoline call, const void* context);
  void help(int rank);
  void work(uint32_t job, int rank);

  std::vector<std::thread> helpers_;
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> finished_{0};  // chunks of the current job that are done
  // The current job; atomics only because a late helper may read them while the next one is written (its claim
  // then fails, and what it read is dropped).
  std::atomic<Trampoline> call_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<int64_t> count_{0};
  std::atomic<int64_t> grain_{1};
  alignas(64) std::atomic<uint32_t> job_{0};  // helpers wait for a change of this
  std::atomic<int> parked_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace sluice
