// Sends what is known of ended answers to an OpenTelemetry collector as spans, over OTLP/gRPC. Owns a bounded queue,
// one thread and one channel; knows of answers only their AnswerRecord. record() never waits: what the queue cannot
// hold, and what the collector does not take, is dropped and counted, because a trace is never worth an answer.
//
//   request (server) |-------------------------------------|
//     queue          |----|                                     arrival -> first step
//     prefill             |---------|                           first step -> first token
//     decode                        |----------------------|    first token -> last token
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sluice/clock.h"

#include "server/answer_record.h"
#include "server/fresh_numbers.h"

namespace sluice {

struct SpanExporterOptions {
  std::string endpoint;       // HOST:PORT of the collector, without TLS
  double sample_ratio = 1;    // of the traces that begin here; those of others are recorded if they are by their caller
  size_t max_waiting = 4096;  // answers; a second of a fast server's
  size_t max_batch = 256;     // answers in one message
  Duration interval = std::chrono::seconds(1);  // between messages while there is little to send
  Duration timeout = std::chrono::seconds(5);   // of one message
  // Of the resource: who sends this.
  std::string service_name = "sluice", service_version, model;
};

class SpanExporter {
 public:
  explicit SpanExporter(SpanExporterOptions options);
  // Tries to send what waits, for the time of one message at most.
  ~SpanExporter();
  SpanExporter(const SpanExporter&) = delete;
  SpanExporter& operator=(const SpanExporter&) = delete;

  // Any thread; one short lock.
  void record(const AnswerRecord& record);

  int64_t num_exported() const { return num_exported_; }  // answers that the collector took
  int64_t num_dropped() const { return num_dropped_; }    // answers that were lost on the way

 private:
  struct Channel;

  bool sampled(const AnswerRecord& record);
  void run();
  void send(std::vector<AnswerRecord> records);

  const SpanExporterOptions options_;
  FreshNumbers numbers_;
  std::unique_ptr<Channel> channel_;
  std::atomic<int64_t> num_exported_{0}, num_dropped_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<AnswerRecord> waiting_;
  bool stopping_ = false;
  bool failing_ = false;  // the thread's: the last message was not taken
  std::thread thread_;
};

}  // namespace sluice
