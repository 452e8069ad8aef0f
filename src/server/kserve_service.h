// The service inference.GRPCInferenceService: KServe v2 in Triton's superset, on the one model that is served. Owns the
// counts of its requests. Called by gRPC's threads.
#pragma once

#include "inference/grpc_service.pb.h"
#include "server/kserve_answer.h"
#include "server/rpc_service.h"

namespace sluice {

class KServeService final : public RpcService {
 public:
  explicit KServeService(Door& door);

 private:
  void bind_descriptions();
  void bind_infer();
  void refuse_the_rest();
  inference::ModelStatisticsResponse statistics() const;

  const Services& services_;
  InferCounts counts_;
};

}  // namespace sluice
