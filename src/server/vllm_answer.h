// Renders an answer as GenerateResponses of vllm.grpc.engine: chunks of what is new, then one complete message per
// choice. Serves one answer, one thread at a time.
#pragma once

#include <memory>

#include "server/answer_renderer.h"

namespace sluice {

std::unique_ptr<AnswerRenderer> vllm_renderer(const CheckedRequest& checked, bool stream);

}  // namespace sluice
