// The service fmaas.GenerationService: text in, text out, in batches or streamed. Called by gRPC's threads.
#pragma once

#include "fmaas/generation.pb.h"
#include "server/rpc_service.h"

namespace sluice {

class FmaasService final : public RpcService {
 public:
  explicit FmaasService(Door& door);

 private:
  void bind_generate();
  Result<fmaas::BatchedTokenizeResponse> tokenize(const fmaas::BatchedTokenizeRequest& request) const;

  const Services& services_;
};

}  // namespace sluice
