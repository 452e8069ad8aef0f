// The one line that an ended answer leaves in the log: who, how much, how long, how it ended. Never what. Owns a
// bounded queue and one thread, because a log that nobody reads (a full pipe) must not hold up the detokeniser, who
// calls here; what the queue cannot hold is dropped and counted.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "server/answer_record.h"

namespace sluice {

class AnswerLog {
 public:
  explicit AnswerLog(size_t max_waiting = 4096);  // a second of a fast server's
  ~AnswerLog();                                   // writes what waits
  AnswerLog(const AnswerLog&) = delete;
  AnswerLog& operator=(const AnswerLog&) = delete;

  // Any thread; one short lock.
  void record(const AnswerRecord& record);

 private:
  void run();

  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<AnswerRecord> waiting_;
  int64_t num_dropped_ = 0;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace sluice
