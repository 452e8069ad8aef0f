// Calls that carry an answer: the readers of an AnswerStream that speak gRPC. Each owns itself from construction until
// gRPC says OnDone, which comes after Finish, which comes after the end of the answer was taken (or after a refusal).
//
// By the protocol of AnswerStream exactly one thread at a time is inside pump(): whoever began the call, the
// detokeniser thread through on_ready(), or gRPC's through OnWriteDone().
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <utility>

#include "server/answer_proto.h"
#include "server/answer_stream.h"
#include "server/wire.h"

namespace sluice {

// What both calls are made of. `Reactor` is gRPC's side.
template <typename Reactor>
class AnswerCall : public Reactor, public AnswerReader {
 public:
  AnswerCall(grpc::CallbackServerContext* context, const Tokenizer* tokenizer)
      : context_(context), tokenizer_(tokenizer) {}

  // Before begin() or refuse().
  void set_head(AnswerHead head) { head_ = std::move(head); }
  // The answer comes through `stream`. The call may be gone when this returns.
  void begin(std::shared_ptr<AnswerStream> stream) {
    stream_ = std::move(stream);
    pump();
  }
  // There will be no answer.
  void refuse(const Status& status) { this->Finish(to_grpc(status)); }

  void on_ready() override { pump(); }
  void on_stalled() override { context_->TryCancel(); }
  void OnCancel() override {
    if (stream_) stream_->cancel();
  }
  void OnDone() override { delete this; }

 protected:
  virtual void pump() = 0;

  grpc::CallbackServerContext* const context_;
  const Tokenizer* const tokenizer_;
  AnswerHead head_;
  std::shared_ptr<AnswerStream> stream_;  // null: refused
};

class UnaryCall final : public AnswerCall<grpc::ServerUnaryReactor> {
 public:
  UnaryCall(grpc::CallbackServerContext* context, const Tokenizer* tokenizer, grpc::ByteBuffer* response)
      : AnswerCall(context, tokenizer), response_(response) {}

 private:
  void pump() override {
    AnswerStream::Batch batch = stream_->take();
    if (batch.empty()) return;
    const Status status = batch.end->status;
    if (status.ok()) *response_ = serialize_message(to_proto(std::move(batch), head_, true, tokenizer_));
    Finish(to_grpc(status));
  }

  grpc::ByteBuffer* const response_;
};

class StreamCall final : public AnswerCall<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  using AnswerCall::AnswerCall;

  void OnWriteDone(bool ok) override {
    if (!ok) {
      broken_ = true;
      stream_->cancel();
    }
    if (end_status_) {
      Finish(to_grpc(*end_status_));
    } else {
      pump();
    }
  }

 private:
  void pump() override {
    AnswerStream::Batch batch = stream_->take();
    // Nobody reads any more: only the end matters.
    while (broken_ && !batch.empty() && !batch.end) batch = stream_->take();
    if (batch.empty()) return;
    if (batch.end) end_status_ = batch.end->status;
    if (broken_) {
      Finish(to_grpc(*end_status_));
      return;
    }
    const bool ends_well = end_status_ && end_status_->ok();
    message_ = serialize_message(to_proto(std::move(batch), head_, std::exchange(first_, false), tokenizer_));
    if (ends_well) {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status());
    } else {
      StartWrite(&message_);  // usage and reason, then the status
    }
  }

  grpc::ByteBuffer message_;  // in flight
  bool first_ = true;
  bool broken_ = false;
  std::optional<Status> end_status_;
};

}  // namespace sluice
