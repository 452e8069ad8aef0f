#include "server/fmaas_batch.h"

#include <utility>

#include "server/wire.h"

namespace sluice {

void FmaasBatchCall::start(Door& door, const fmaas::Parameters& params, Result<std::vector<CheckedRequest>> requests) {
  std::unique_lock lock(mutex_);
  if (requests.ok()) {
    for (CheckedRequest& request : *requests) {
      if (!failure_.ok()) break;
      if (Status status = begin(door, params, std::move(request)); !status.ok()) fail(status);
    }
  } else {
    failure_ = requests.status();
  }
  for (const auto& answer : answers_) take_from(*answer);
  const bool done = complete();
  lock.unlock();
  if (done) finish();
}

Status FmaasBatchCall::begin(Door& door, const fmaas::Parameters& params, CheckedRequest request) {
  SLUICE_RETURN_IF_ERROR(door.admit(incoming_, &request.task));
  request.task.delivery = Delivery::kWhole;
  auto answer = std::make_unique<Answer>(*this, response_.responses_size());
  answer->renderer = std::make_unique<FmaasRenderer>(request, params, door.services());
  SLUICE_ASSIGN_OR_RETURN(answer->stream, door.submit(incoming_, std::move(request.task), *answer));
  response_.add_responses();
  answers_.push_back(std::move(answer));
  ++num_open_;
  return {};
}

void FmaasBatchCall::wake(Answer& answer) {
  std::unique_lock lock(mutex_);
  take_from(answer);
  const bool done = complete();
  lock.unlock();
  if (done) finish();
}

void FmaasBatchCall::take_from(Answer& answer) {
  AnswerStream::Batch batch = answer.stream->take();
  if (batch.empty()) return;
  --num_open_;
  if (const Status status = answer.renderer->close(*batch.end); !status.ok()) return fail(status);
  *response_.mutable_responses(answer.index()) = answer.renderer->whole(std::move(batch));
}

void FmaasBatchCall::fail(const Status& status) {
  if (!failure_.ok()) return;
  failure_ = status;
  for (const auto& answer : answers_) answer->stream->cancel();
}

void FmaasBatchCall::OnCancel() {
  std::lock_guard lock(mutex_);
  for (const auto& answer : answers_) answer->stream->cancel();
}

// Nobody else is inside any more: all ends are taken.
void FmaasBatchCall::finish() {
  if (failure_.ok()) *response_bytes_ = serialize_message(response_);
  Finish(to_grpc(failure_));
}

}  // namespace sluice
