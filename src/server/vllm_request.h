// From a GenerateRequest of vllm.grpc.engine to a native request: fills what plain numbers of 0 mean and refuses what
// we do not have; ranges are left to the native validation. Pure function, any thread.
#pragma once

#include <cstdint>

#include "sluice/status.h"

#include "server/services.h"
#include "server/validate.h"
#include "vllm/grpc/engine/vllm_engine.pb.h"

namespace sluice {

Result<CheckedRequest> check_vllm(const vllm::grpc::engine::GenerateRequest& request, const Services& services,
                                  uint64_t fresh_seed);

}  // namespace sluice
