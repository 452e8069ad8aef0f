// Calls that carry one answer: the readers of an AnswerStream that speak gRPC. Each owns itself from construction until
// gRPC says OnDone, which comes after Finish, which comes after the end of the answer was taken (or after a refusal).
//
// By the protocol of AnswerStream exactly one thread at a time is inside pump(): whoever began the call, the
// detokeniser thread through on_ready(), or gRPC's through OnWriteDone().
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "sluice/check.h"

#include "server/answer_renderer.h"
#include "server/door.h"
#include "server/wire.h"

namespace sluice {

// What both calls are made of. `Reactor` is gRPC's side.
template <typename Reactor>
class AnswerCall : public Reactor, public AnswerReader {
 public:
  explicit AnswerCall(const IncomingCall& incoming) : incoming_(incoming) {}

  // Begins the answer, or refuses it. The call may be gone when this returns.
  void start(Door& door, Result<CheckedRequest> checked, Delivery delivery, const MakeRenderer& make_renderer) {
    if (checked.ok()) {
      if (Status status = door.admit(incoming_, &checked->task); !status.ok()) checked = status;
    }
    if (!checked.ok()) {
      door.services().frontend.metrics().rejected(checked.status());
      return this->Finish(to_grpc(checked.status()));
    }
    renderer_ = make_renderer(*checked);
    checked->task.delivery = delivery;
    Result<std::shared_ptr<AnswerStream>> stream = door.submit(incoming_, std::move(checked->task), *this);
    if (!stream.ok()) return this->Finish(to_grpc(stream.status()));
    stream_ = std::move(*stream);
    pump();
  }

  void on_ready() override { pump(); }
  void on_stalled() override { incoming_.context->TryCancel(); }
  void OnCancel() override {
    if (stream_) stream_->cancel();
  }
  void OnDone() override { delete this; }

 protected:
  virtual void pump() = 0;

  const IncomingCall incoming_;
  std::unique_ptr<AnswerRenderer> renderer_;
  std::shared_ptr<AnswerStream> stream_;  // null: refused
};

class UnaryCall final : public AnswerCall<grpc::ServerUnaryReactor> {
 public:
  UnaryCall(const IncomingCall& incoming, grpc::ByteBuffer* response) : AnswerCall(incoming), response_(response) {}

 private:
  void pump() override {
    AnswerStream::Batch batch = stream_->take();
    if (batch.empty()) return;
    const Status status = renderer_->close(*batch.end);
    if (status.ok()) {
      std::vector<grpc::ByteBuffer> messages = renderer_->render(std::move(batch));
      SLUICE_CHECK(messages.size() == 1, "a whole answer became {} messages", messages.size());
      *response_ = std::move(messages.front());
    }
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
    pump();
  }

 private:
  void pump() override {
    while (outbox_.empty() && !end_status_) {
      AnswerStream::Batch batch = stream_->take();
      if (batch.empty()) return;
      if (batch.end) end_status_ = renderer_->close(*batch.end);
      if (broken_) continue;  // nobody reads any more: only the end matters
      for (grpc::ByteBuffer& message : renderer_->render(std::move(batch))) outbox_.push_back(std::move(message));
    }
    if (broken_) outbox_.clear();
    if (outbox_.empty() && end_status_) return Finish(to_grpc(*end_status_));
    if (outbox_.empty()) return pump();
    message_ = std::move(outbox_.front());
    outbox_.pop_front();
    if (outbox_.empty() && end_status_ && end_status_->ok()) {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status());
    } else {
      StartWrite(&message_);  // what came before a bad end is sent, then the status
    }
  }

  std::deque<grpc::ByteBuffer> outbox_;
  grpc::ByteBuffer message_;  // in flight
  bool broken_ = false;
  std::optional<Status> end_status_;
};

// Messages that are all there at the start, then `status`.
class MessagesCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  MessagesCall(std::vector<grpc::ByteBuffer> messages, Status status)
      : messages_(std::move(messages)), status_(std::move(status)) {
    write_next();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) next_ = messages_.size();
    write_next();
  }
  void OnDone() override { delete this; }

 private:
  void write_next() {
    if (next_ < messages_.size()) {
      StartWrite(&messages_[next_++]);
    } else {
      Finish(to_grpc(status_));
    }
  }

  const std::vector<grpc::ByteBuffer> messages_;
  const Status status_;
  size_t next_ = 0;
};

}  // namespace sluice
