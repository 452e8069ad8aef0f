// From a ModelInferRequest to a native request, and what of it shapes the responses. Checks what the protocol adds
// (tensors, parameters, versions); ranges are left to the native validation. Pure functions, any thread.
#pragma once

#include <string>

#include "sluice/clock.h"
#include "sluice/status.h"

#include "inference/grpc_service.pb.h"
#include "server/services.h"
#include "server/validate.h"

namespace sluice {

constexpr const char* kModelVersion = "1";

// What a response shows.
struct InferOptions {
  std::string id;  // of the request
  bool stream = false;
  bool raw = true;             // contents, in and out
  bool prepend_input = false;  // to a whole answer
  bool text = true, finish_reason = false, cumulative_logprob = false;
  bool logprobs = false, num_input_tokens = false, num_output_tokens = false;
};

struct CheckedInfer {
  CheckedRequest checked;  // prompt_text filled if it is to be prepended
  InferOptions options;
};

Result<CheckedInfer> check_infer(const inference::ModelInferRequest& request, const Services& services,
                                 uint64_t fresh_seed);

// NOT_FOUND unless it is the model that is served, in the version that there is.
Status check_model_version(const std::string& model, const std::string& version, const ModelInfo& served);

}  // namespace sluice
