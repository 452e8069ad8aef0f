// Writes pages to the disk tier beside the loop, so that no step waits for a disk. Owns one thread, the disk tier from
// then on, and a few staging slots; refuses to choose what is saved (ActivationCache does). All methods are called by
// the loop thread.
//
//   loop:    take_slot() -> the engine moves a page there -> save(record, slot)          slot is free again
//   thread:                                                   append to the disk ----------^
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "cache/disk_tier.h"
#include "cache/host_tier.h"

namespace sluice {

class PageSaver {
 public:
  PageSaver(std::unique_ptr<DiskTier> disk, int64_t page_bytes);
  // Writes what is queued, then ends the thread.
  ~PageSaver();
  PageSaver(const PageSaver&) = delete;
  PageSaver& operator=(const PageSaver&) = delete;

  // A staging slot, or -1 while all are being written: then saving waits for a later step.
  int32_t take_slot();
  void return_slot(int32_t slot);
  std::byte* bytes(int32_t slot) { return staging_.bytes(slot); }
  // Queues the record with the slot's bytes as its page; the slot comes back by itself.
  void save(DiskRecord record, int32_t slot);
  // Waits until all that was queued is on the disk.
  void flush();

  // Records below this id are gone from the disk.
  uint64_t first_id() const { return first_id_.load(std::memory_order_relaxed); }

 private:
  struct Job {
    DiskRecord record;
    int32_t slot = -1;
  };

  void run();

  std::unique_ptr<DiskTier> disk_;  // the thread's
  const int64_t page_bytes_;
  std::atomic<uint64_t> first_id_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  HostTier staging_;
  std::deque<Job> jobs_;
  int32_t num_unwritten_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sluice
