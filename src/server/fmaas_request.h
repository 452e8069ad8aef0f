// From a request of fmaas.GenerationService to a native one: the protocol's own limits, what 0 means in it, and what we
// do not have; the other ranges are left to the native validation. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>

#include "sluice/status.h"

#include "fmaas/generation.pb.h"
#include "server/services.h"
#include "server/validate.h"

namespace sluice {

constexpr int32_t kFmaasMaxStops = 6, kFmaasMaxStopBytes = 240, kFmaasMaxTopTokens = 10;
constexpr uint32_t kFmaasDefaultMaxTokens = 20;

Status check_fmaas_params(const fmaas::Parameters& params, const ModelInfo& model);
// `params` are checked.
Result<CheckedRequest> check_fmaas(const std::string& text, const fmaas::Parameters& params, const Services& services,
                                   uint64_t fresh_seed);

}  // namespace sluice
