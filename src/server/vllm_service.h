// The service vllm.grpc.engine.VllmEngine: what gateways that tokenise by themselves ask of a worker. Called by gRPC's
// threads.
#pragma once

#include <atomic>
#include <mutex>

#include "server/rpc_service.h"
#include "vllm/grpc/engine/vllm_engine.pb.h"

namespace sluice {

class VllmService final : public RpcService {
 public:
  explicit VllmService(Door& door);

 private:
  void bind_generate();
  void bind_descriptions();
  void bind_tokenizer();
  vllm::grpc::engine::GetModelInfoResponse describe_model() const;
  vllm::grpc::engine::GetServerInfoResponse describe_server() const;
  vllm::grpc::engine::GetLoadsResponse loads();
  double throughput(int64_t generated_tokens);

  const Services& services_;
  std::atomic<double> last_request_{0};  // seconds since 1970

  std::mutex rate_mutex_;
  TimePoint rate_time_{};
  int64_t rate_tokens_ = 0;  // generated until then
  double rate_ = 0;          // tokens per second
};

}  // namespace sluice
