#include "server/vllm_request.h"

#include <algorithm>
#include <limits>

#include "server/output_form.h"

namespace sluice {

namespace {

using vllm::grpc::engine::GenerateRequest;
using vllm::grpc::engine::SamplingParams;

// Beyond it the native range is crossed anyway, and the message says so.
int32_t narrowed(uint32_t value) {
  return static_cast<int32_t>(std::min<uint32_t>(value, std::numeric_limits<int32_t>::max()));
}

Status refuse_what_we_lack(const GenerateRequest& in) {
  if (in.has_mm_inputs() || in.extra_mm_inputs_size() > 0 || in.has_media_refs())
    return failed_precondition("mm_inputs: the model takes text only");
  if (in.has_kv_transfer_params() || in.has_kv_transfer_params_json())
    return failed_precondition("kv_transfer_params: this server neither sends nor takes cached keys and values");
  if (in.data_parallel_rank() != 0)
    return invalid_argument("data_parallel_rank: must be 0, got {}", in.data_parallel_rank());
  return {};
}

void fill_sampling(const SamplingParams& in, v1::Sampling* out) {
  out->set_temperature(in.has_temperature() ? in.temperature() : 1.0f);
  out->set_top_p(in.top_p() == 0 ? 1.0f : in.top_p());
  out->set_top_k(narrowed(in.top_k()));
  out->set_min_p(in.min_p());
  out->set_frequency_penalty(in.frequency_penalty());
  out->set_presence_penalty(in.presence_penalty());
  out->set_repetition_penalty(in.repetition_penalty() == 0 ? 1.0f : in.repetition_penalty());
  if (in.has_seed()) out->set_seed(in.seed());
  for (const auto& [token, bias] : in.logit_bias()) (*out->mutable_logit_bias())[static_cast<uint32_t>(token)] = bias;
}

void fill_stopping(const SamplingParams& in, const ModelInfo& model, v1::Stopping* out) {
  out->set_max_tokens(in.has_max_tokens() ? narrowed(in.max_tokens()) : model.context_length);
  out->set_min_tokens(narrowed(in.min_tokens()));
  out->set_ignore_eos(in.ignore_eos());
  *out->mutable_stop_strings() = in.stop();
  *out->mutable_stop_token_ids() = in.stop_token_ids();
}

void fill_form(const SamplingParams& in, v1::Form* out) {
  switch (in.constraint_case()) {
    case SamplingParams::kJsonSchema:
      return out->set_json_schema(in.json_schema());
    case SamplingParams::kRegex:
      return out->set_regex(in.regex());
    case SamplingParams::kGrammar:
      return out->set_grammar(in.grammar());
    case SamplingParams::kStructuralTag:
      return out->set_structural_tag(in.structural_tag());
    case SamplingParams::kJsonObject:
      return out->set_json_object(in.json_object());
    case SamplingParams::kChoice:
      *out->mutable_choice()->mutable_values() = in.choice().choices();
      return;
    case SamplingParams::CONSTRAINT_NOT_SET:
      return;
  }
}

Status fill_prompt(const GenerateRequest& in, const Services& services, v1::GenerateRequest* out) {
  const SamplingParams& params = in.sampling_params();
  if (in.input_case() == GenerateRequest::INPUT_NOT_SET)
    return invalid_argument("input: must be given, as tokenized or as text");
  if (!params.has_truncate_prompt_tokens()) {
    if (in.has_text()) {
      out->set_text(in.text());
    } else {
      *out->mutable_token_ids()->mutable_ids() = in.tokenized().input_ids();
    }
    return {};
  }
  const int32_t wanted = params.truncate_prompt_tokens();
  if (wanted != -1 && wanted < 1)
    return invalid_argument("truncate_prompt_tokens: must be -1 or at least 1, got {}", wanted);
  return fill_last_tokens(in.has_text() ? std::optional(in.text()) : std::nullopt, in.tokenized().input_ids(),
                          wanted == -1 ? services.model.context_length - 1 : wanted, services, out);
}

}  // namespace

Result<CheckedRequest> check_vllm(const GenerateRequest& request, const Services& services, uint64_t fresh_seed) {
  SLUICE_RETURN_IF_ERROR(refuse_what_we_lack(request));
  const vllm::grpc::engine::SamplingParams& params = request.sampling_params();
  v1::GenerateRequest out;
  SLUICE_RETURN_IF_ERROR(fill_prompt(request, services, &out));
  fill_sampling(params, out.mutable_sampling());
  fill_stopping(params, services.model, out.mutable_stopping());
  if (params.has_logprobs()) out.mutable_output()->set_logprobs(params.logprobs());
  if (params.has_prompt_logprobs()) out.mutable_output()->set_prompt_logprobs(params.prompt_logprobs());
  out.set_n(params.n() == 0 ? 1 : narrowed(params.n()));
  out.set_request_id(request.request_id());
  fill_form(params, out.mutable_output()->mutable_form());
  return name_form(check_generate(out, services, fresh_seed), "constraint");
}

}  // namespace sluice
