// The service sluice.v1.Inference: binds the methods of the native protocol to validation, Frontend and rendering. Each
// call owns itself. Called by gRPC's threads.
#pragma once

#include <cstdint>

#include "sluice/v1/inference.pb.h"

#include "server/rpc_service.h"

namespace sluice {

class InferenceService final : public RpcService {
 public:
  InferenceService(Door& door, int64_t max_message_bytes);

 private:
  template <typename RequestMessage>
  void bind_answers(const std::string& method);
  void bind_tokens();
  v1::Server describe_server() const;

  const Services& services_;
  const int64_t max_message_bytes_;
};

}  // namespace sluice
