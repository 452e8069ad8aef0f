// The service sluice.v1.Inference over gRPC's callback API. Owns the readiness flag and the fresh seeds; each call owns
// itself. Parses requests from raw bytes (wire.h says why). Called by gRPC's threads.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "sluice/v1/inference.grpc.pb.h"

#include "server/services.h"
#include "server/validate.h"

namespace sluice {

// All methods with raw bytes on both sides.
using RawInference = v1::Inference::WithRawCallbackMethod_Generate<v1::Inference::WithRawCallbackMethod_GenerateStream<
    v1::Inference::WithRawCallbackMethod_Chat<v1::Inference::WithRawCallbackMethod_ChatStream<
        v1::Inference::WithRawCallbackMethod_Tokenize<v1::Inference::WithRawCallbackMethod_Detokenize<
            v1::Inference::WithRawCallbackMethod_GetModel<v1::Inference::WithRawCallbackMethod_GetServer<
                v1::Inference::WithRawCallbackMethod_Abort<v1::Inference::Service>>>>>>>>>;

class InferenceService final : public RawInference {
 public:
  InferenceService(Services services, int64_t max_message_bytes);

  // While not ready, Generate and Chat are refused with UNAVAILABLE. Any thread.
  void set_ready(bool ready) { ready_ = ready; }
  bool ready() const { return ready_; }

  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* Generate(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerWriteReactor<Bytes>* GenerateStream(Context* context, const Bytes* request) override;
  grpc::ServerUnaryReactor* Chat(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerWriteReactor<Bytes>* ChatStream(Context* context, const Bytes* request) override;
  grpc::ServerUnaryReactor* Tokenize(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerUnaryReactor* Detokenize(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerUnaryReactor* GetModel(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerUnaryReactor* GetServer(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerUnaryReactor* Abort(Context* context, const Bytes* request, Bytes* response) override;

 private:
  template <typename RequestMessage, typename Call>
  void start(Context* context, const Bytes& bytes, Delivery delivery, Call* call);
  template <typename RequestMessage>
  Result<CheckedRequest> check(const Context& context, const Bytes& bytes);
  Result<std::string> request_id_of(const Context& context, const std::string& named);
  TimePoint deadline_of(const Context& context) const;
  uint64_t fresh_number();
  v1::Server describe_server() const;

  const Services services_;
  const int64_t max_message_bytes_;
  const TimePoint started_;
  std::atomic<bool> ready_{false};
  std::atomic<uint64_t> random_state_;
};

}  // namespace sluice
