#include "cache/page_saver.h"

#include <utility>

#include "sluice/log.h"

namespace sluice {

namespace {

// Enough to keep a disk busy while a step runs; more would only hold memory.
constexpr int32_t kNumStagingSlots = 8;

}  // namespace

PageSaver::PageSaver(std::unique_ptr<DiskTier> disk, int64_t page_bytes)
    : disk_(std::move(disk)),
      page_bytes_(page_bytes),
      first_id_(disk_->first_id()),
      staging_(kNumStagingSlots, page_bytes),
      thread_([this] { run(); }) {}

PageSaver::~PageSaver() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int32_t PageSaver::take_slot() {
  std::lock_guard lock(mutex_);
  return staging_.allocate();
}

void PageSaver::return_slot(int32_t slot) {
  std::lock_guard lock(mutex_);
  staging_.free(slot);
}

void PageSaver::save(DiskRecord record, int32_t slot) {
  record.page = {staging_.bytes(slot), static_cast<size_t>(page_bytes_)};
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(record), slot});
    ++num_unwritten_;
  }
  changed_.notify_all();
}

void PageSaver::flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return num_unwritten_ == 0; });
}

void PageSaver::run() {
  bool is_broken = false;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    const Status status = is_broken ? Status() : disk_->append(job.record);
    if (!status.ok()) {
      // A half-written record would hide all behind it: no more writing until the next start.
      log_warn("disk tier: no pages are saved from now on: {}", status.to_string());
      is_broken = true;
    }
    first_id_.store(is_broken ? ~uint64_t{0} : disk_->first_id(), std::memory_order_relaxed);
    lock.lock();
    staging_.free(job.slot);
    --num_unwritten_;
    changed_.notify_all();
  }
}

}  // namespace sluice
