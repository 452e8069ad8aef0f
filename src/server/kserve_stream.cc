#include "server/kserve_stream.h"

#include <algorithm>
#include <utility>

#include "server/kserve_request.h"
#include "server/wire.h"

namespace sluice {

namespace {

// Responses that wait to be written before the next request is read: a client that only sends is not answered without
// bound.
constexpr size_t kMaxWaitingResponses = 64;

}  // namespace

InferStreamCall::InferStreamCall(const IncomingCall& incoming, Door& door, InferCounts& counts)
    : incoming_(incoming),
      door_(door),
      counts_(counts),
      errors_end_stream_(metadata(*incoming.context, "triton_grpc_error") == "true") {
  StartRead(&request_);
}

void InferStreamCall::OnReadDone(bool ok) {
  std::unique_lock lock(mutex_);
  reading_ = false;
  if (!ok) {
    reads_ended_ = true;
  } else if (!broken_) {
    std::string id;
    if (const Status status = begin(request_, &id); !status.ok()) fail(id, status);
  }
  const Next todo = next();
  lock.unlock();
  perform(todo);
}

void InferStreamCall::OnWriteDone(bool ok) {
  std::unique_lock lock(mutex_);
  writing_ = false;
  if (!ok) break_off();
  const Next todo = next();
  lock.unlock();
  perform(todo);
}

void InferStreamCall::OnCancel() {
  std::unique_lock lock(mutex_);
  break_off();
  const Next todo = next();
  lock.unlock();
  perform(todo);
}

void InferStreamCall::wake(Answer* answer) {
  std::unique_lock lock(mutex_);
  ready_.push_back(answer);
  const Next todo = next();
  lock.unlock();
  perform(todo);
}

// Under the lock, so that the answer's first on_ready() finds it complete.
Status InferStreamCall::begin(const grpc::ByteBuffer& bytes, std::string* id) {
  inference::ModelInferRequest request;
  SLUICE_RETURN_IF_ERROR(parse_message(bytes, &request));
  *id = request.id();
  Result<CheckedInfer> infer = check_infer(request, door_.services(), door_.fresh_seed());
  if (infer.ok()) {
    if (Status status = door_.admit(incoming_, &infer->checked.task); !status.ok()) infer = status;
  }
  if (!infer.ok()) {
    counts_.add_failure({});
    return infer.status();
  }
  infer->checked.task.delivery = infer->options.stream ? Delivery::kStream : Delivery::kWhole;
  auto answer = std::make_unique<Answer>(*this);
  answer->id = *id;
  answer->renderer =
      std::make_unique<InferRenderer>(std::move(infer->options), infer->checked, door_.services(), counts_);
  SLUICE_ASSIGN_OR_RETURN(answer->stream, door_.submit(incoming_, std::move(infer->checked.task), *answer));
  ready_.push_back(answer.get());
  answers_.push_back(std::move(answer));
  return {};
}

void InferStreamCall::fail(const std::string& id, const Status& status) {
  if (errors_end_stream_) {
    if (end_status_.ok()) end_status_ = status;
    cancel_all();  // what is rendered already still goes out before the status
    return;
  }
  inference::ModelStreamInferResponse message;
  message.set_error_message(status.to_string());
  inference::ModelInferResponse& response = *message.mutable_infer_response();
  response.set_model_name(door_.services().model.name);
  response.set_model_version(kModelVersion);
  response.set_id(id);
  (*response.mutable_parameters())["triton_final_response"].set_bool_param(true);
  outbox_.push_back(serialize_message(message));
}

void InferStreamCall::take_from(Answer* answer) {
  AnswerStream::Batch batch = answer->stream->take();
  if (batch.empty()) return;  // parked: wake() brings it back
  const bool ended = batch.end.has_value();
  const Status status = ended ? answer->renderer->close(*batch.end) : Status();
  if (!broken_ && !status.ok()) {
    fail(answer->id, status);
  } else if (!broken_) {
    inference::ModelStreamInferResponse message;
    if (auto response = answer->renderer->response(std::move(batch))) {
      *message.mutable_infer_response() = std::move(*response);
      outbox_.push_back(serialize_message(message));
    }
  }
  if (ended) {
    std::erase_if(answers_, [answer](const auto& other) { return other.get() == answer; });
  } else {
    ready_.push_back(answer);
  }
}

void InferStreamCall::break_off() {
  outbox_.clear();
  cancel_all();
}

void InferStreamCall::cancel_all() {
  broken_ = true;
  for (const auto& answer : answers_) answer->stream->cancel();
}

InferStreamCall::Next InferStreamCall::next() {
  Next todo;
  if (finished_) return todo;
  while (!writing_ && outbox_.empty() && !ready_.empty()) {
    Answer* answer = ready_.front();
    ready_.pop_front();
    take_from(answer);
  }
  // Ends are taken even while a write is in flight that will never be done.
  while (broken_ && !ready_.empty()) {
    Answer* answer = ready_.front();
    ready_.pop_front();
    take_from(answer);
  }
  if (!writing_ && !outbox_.empty()) {
    message_ = std::move(outbox_.front());
    outbox_.pop_front();
    todo.write = writing_ = true;
  }
  const bool wants_more = !reads_ended_ && !broken_;
  if (wants_more && !reading_ && outbox_.size() < kMaxWaitingResponses) todo.read = reading_ = true;
  // A read in flight ends with the call: gRPC finishes it with false.
  if ((reads_ended_ || broken_) && !writing_ && outbox_.empty() && answers_.empty()) {
    finished_ = true;
    todo.finish = end_status_;
  }
  return todo;
}

// After a finish the call may be gone.
void InferStreamCall::perform(Next todo) {
  if (todo.read) StartRead(&request_);
  if (todo.write) StartWrite(&message_);
  if (todo.finish) Finish(to_grpc(*todo.finish));
}

}  // namespace sluice
