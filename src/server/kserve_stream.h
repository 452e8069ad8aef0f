// One ModelStreamInfer call: any number of requests in, their answers interleaved out, one write at a time. Owns itself
// from construction until gRPC says OnDone. Reactions come from gRPC's threads, on_ready() from the detokeniser thread;
// one mutex guards all state, and is not held while gRPC is called.
//
//   read -> check, submit ----> answers_ --on_ready--> ready_ --take, render--> outbox_ --> the write in flight
//            \- refused: error message ------------------------------------------^
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "server/door.h"
#include "server/kserve_answer.h"

namespace sluice {

class InferStreamCall final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Both outlive the call.
  InferStreamCall(const IncomingCall& incoming, Door& door, InferCounts& counts);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  // The reader of one request's answer.
  class Answer final : public AnswerReader {
   public:
    explicit Answer(InferStreamCall& call) : call_(call) {}
    void on_ready() override { call_.wake(this); }
    void on_stalled() override { call_.incoming_.context->TryCancel(); }

    std::string id;
    std::unique_ptr<InferRenderer> renderer;
    std::shared_ptr<AnswerStream> stream;

   private:
    InferStreamCall& call_;
  };

  // What the state asks of gRPC next; done without the lock.
  struct Next {
    bool read = false, write = false;
    std::optional<Status> finish;
  };

  void wake(Answer* answer);
  Status begin(const grpc::ByteBuffer& bytes, std::string* id);
  void fail(const std::string& id, const Status& status);
  void take_from(Answer* answer);
  void break_off();   // nobody reads any more
  void cancel_all();  // nothing more is begun or rendered
  Next next();
  void perform(Next next);

  const IncomingCall incoming_;
  Door& door_;
  InferCounts& counts_;
  const bool errors_end_stream_;

  std::mutex mutex_;
  std::list<std::unique_ptr<Answer>> answers_;  // begun and not ended
  std::deque<Answer*> ready_;                   // may have something to take
  std::deque<grpc::ByteBuffer> outbox_;
  grpc::ByteBuffer request_, message_;  // of the read and the write in flight
  bool reading_ = true, writing_ = false;
  bool reads_ended_ = false;  // the client sends no more
  bool broken_ = false;       // nobody reads: only the ends matter
  bool finished_ = false;
  Status end_status_;
};

}  // namespace sluice
