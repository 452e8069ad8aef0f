// One fmaas Generate call: several requests, one response when all answers are whole. Owns itself from construction
// until gRPC says OnDone. Readers are woken by the detokeniser thread; one mutex guards all state.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <vector>

#include "fmaas/generation.pb.h"
#include "server/door.h"
#include "server/fmaas_answer.h"

namespace sluice {

class FmaasBatchCall final : public grpc::ServerUnaryReactor {
 public:
  FmaasBatchCall(const IncomingCall& incoming, grpc::ByteBuffer* response)
      : incoming_(incoming), response_bytes_(response) {}

  // Begins all answers, or ends the call with what was wrong with one. The call may be gone when this returns.
  void start(Door& door, const fmaas::Parameters& params, Result<std::vector<CheckedRequest>> requests);

  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  class Answer final : public AnswerReader {
   public:
    Answer(FmaasBatchCall& call, int index) : call_(call), index_(index) {}
    void on_ready() override { call_.wake(*this); }
    void on_stalled() override {}  // whole answers never stall

    int index() const { return index_; }
    std::unique_ptr<FmaasRenderer> renderer;
    std::shared_ptr<AnswerStream> stream;

   private:
    FmaasBatchCall& call_;
    const int index_;
  };

  Status begin(Door& door, const fmaas::Parameters& params, CheckedRequest request);
  void wake(Answer& answer);
  void take_from(Answer& answer);
  void fail(const Status& status);
  bool complete() const { return num_open_ == 0; }
  void finish();

  const IncomingCall incoming_;
  grpc::ByteBuffer* const response_bytes_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Answer>> answers_;
  fmaas::BatchedGenerationResponse response_;
  int num_open_ = 0;
  Status failure_;  // the first that was not ok
};

}  // namespace sluice
