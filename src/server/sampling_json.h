// Sampling parameters by vLLM's names, as JSON values, into a native request. Values may be written as strings ("0.7"),
// as Triton's clients do; null is absent. Knows no ranges: the native validation does. Pure functions, any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "sluice/status.h"
#include "sluice/v1/inference.pb.h"

#include "server/json_body.h"

namespace sluice {

// `json` is an object. INVALID_ARGUMENT names `field` ("sampling_parameters") and the key; FAILED_PRECONDITION for a
// feature that we do not have.
Status read_sampling_json(std::string_view json, const std::string& field, v1::GenerateRequest* out);

// One of them.
Status read_sampling_parameter(const std::string& key, const Json& value, v1::GenerateRequest* out);

}  // namespace sluice
