#include "server/fmaas_request.h"

#include <algorithm>
#include <limits>

#include "server/output_form.h"

namespace sluice {

namespace {

using fmaas::DecodingParameters;
using fmaas::Parameters;

int32_t narrowed(uint32_t value) {
  return static_cast<int32_t>(std::min<uint32_t>(value, std::numeric_limits<int32_t>::max()));
}

uint32_t max_tokens_of(const fmaas::StoppingCriteria& stopping) {
  return stopping.max_new_tokens() == 0 ? kFmaasDefaultMaxTokens : stopping.max_new_tokens();
}

// Comparisons are written so that NaN fails them.
Status check_decoding(const DecodingParameters& decoding) {
  const float penalty = decoding.repetition_penalty();
  if (!(penalty >= 0 && penalty <= 2))
    return invalid_argument("repetition_penalty: must be in (0, 2], or 0 for none, got {}", penalty);
  if (decoding.has_length_penalty()) {
    const float decay = decoding.length_penalty().decay_factor();
    if (!(decay >= 1 && decay <= 10))
      return invalid_argument("length_penalty.decay_factor: must be in [1, 10], got {}", decay);
    if (decay != 1) return failed_precondition("length_penalty: is not supported");
  }
  return {};
}

Status check_stopping(const fmaas::StoppingCriteria& stopping, const ModelInfo& model) {
  if (std::cmp_greater(stopping.max_new_tokens(), model.context_length))
    return invalid_argument("max_new_tokens: must be at most {}, got {}", model.context_length,
                            stopping.max_new_tokens());
  if (stopping.min_new_tokens() > max_tokens_of(stopping))
    return invalid_argument("min_new_tokens: must be at most max_new_tokens ({}), got {}", max_tokens_of(stopping),
                            stopping.min_new_tokens());
  if (stopping.stop_sequences_size() > kFmaasMaxStops)
    return invalid_argument("stop_sequences: count: must be in [0, {}], got {}", kFmaasMaxStops,
                            stopping.stop_sequences_size());
  for (int i = 0; i < stopping.stop_sequences_size(); ++i) {
    const size_t bytes = stopping.stop_sequences(i).size();
    if (bytes == 0 || std::cmp_greater(bytes, kFmaasMaxStopBytes))
      return invalid_argument("stop_sequences[{}]: must have 1 to {} bytes, got {}", i, kFmaasMaxStopBytes, bytes);
  }
  return {};
}

Status check_response(const fmaas::ResponseOptions& response) {
  if (std::cmp_greater(response.top_n_tokens(), kFmaasMaxTopTokens))
    return invalid_argument("top_n_tokens: must be in [0, {}], got {}", kFmaasMaxTopTokens, response.top_n_tokens());
  const bool detail = response.token_logprobs() || response.token_ranks() || response.top_n_tokens() > 0;
  if (detail && !response.input_tokens() && !response.generated_tokens())
    return invalid_argument("response: details of tokens need input_tokens or generated_tokens");
  if (response.token_ranks()) return failed_precondition("token_ranks: are not supported; top_n_tokens are in order");
  return {};
}

Status check_sampling(const fmaas::SamplingParameters& sampling) {
  if (!(sampling.top_p() >= 0 && sampling.top_p() <= 1))
    return invalid_argument("top_p: must be in (0, 1], or 0 for none, got {}", sampling.top_p());
  if (!(sampling.typical_p() >= 0 && sampling.typical_p() <= 1))
    return invalid_argument("typical_p: must be in (0, 1], or 0 for none, got {}", sampling.typical_p());
  return {};
}

void fill_form(const DecodingParameters& in, v1::Form* out) {
  switch (in.guided_case()) {
    case DecodingParameters::kFormat:
      if (in.format() == DecodingParameters::JSON) out->set_json_object(true);
      return;
    case DecodingParameters::kJsonSchema:
      return out->set_json_schema(in.json_schema());
    case DecodingParameters::kRegex:
      return out->set_regex(in.regex());
    case DecodingParameters::kChoice:
      *out->mutable_choice()->mutable_values() = in.choice().choices();
      return;
    case DecodingParameters::kGrammar:
      return out->set_grammar(in.grammar());
    case DecodingParameters::GUIDED_NOT_SET:
      return;
  }
}

Status fill_sampling(const Parameters& params, v1::Sampling* out) {
  const fmaas::SamplingParameters& in = params.sampling();
  if (params.decoding().repetition_penalty() > 0) {
    out->set_repetition_penalty(params.decoding().repetition_penalty());
  } else {
    out->set_repetition_penalty(1);
  }
  out->set_top_k(0);
  out->set_top_p(1);
  out->set_min_p(0);
  if (params.method() == fmaas::GREEDY) {
    out->set_temperature(0);
    return {};
  }
  if (in.typical_p() > 0 && in.typical_p() < 1) return failed_precondition("typical_p: is not supported");
  out->set_temperature(in.has_temperature() ? in.temperature() : 1);
  out->set_top_k(narrowed(in.top_k()));
  if (in.top_p() > 0) out->set_top_p(in.top_p());
  if (in.has_seed()) out->set_seed(static_cast<int64_t>(in.seed()));
  return {};
}

}  // namespace

Status check_fmaas_params(const Parameters& params, const ModelInfo& model) {
  SLUICE_RETURN_IF_ERROR(check_decoding(params.decoding()));
  SLUICE_RETURN_IF_ERROR(check_stopping(params.stopping(), model));
  SLUICE_RETURN_IF_ERROR(check_response(params.response()));
  return check_sampling(params.sampling());
}

Result<CheckedRequest> check_fmaas(const std::string& text, const Parameters& params, const Services& services,
                                   uint64_t fresh_seed) {
  if (text.empty()) return invalid_argument("text: must not be empty");
  v1::GenerateRequest out;
  if (params.truncate_input_tokens() > 0) {
    SLUICE_RETURN_IF_ERROR(fill_last_tokens(text, {}, narrowed(params.truncate_input_tokens()), services, &out));
  } else {
    out.set_text(text);
  }
  SLUICE_RETURN_IF_ERROR(fill_sampling(params, out.mutable_sampling()));
  const fmaas::StoppingCriteria& stopping = params.stopping();
  out.mutable_stopping()->set_max_tokens(narrowed(max_tokens_of(stopping)));
  out.mutable_stopping()->set_min_tokens(narrowed(stopping.min_new_tokens()));
  *out.mutable_stopping()->mutable_stop_strings() = stopping.stop_sequences();
  const fmaas::ResponseOptions& response = params.response();
  if (response.token_logprobs() || response.top_n_tokens() > 0) {
    if (response.generated_tokens()) out.mutable_output()->set_logprobs(narrowed(response.top_n_tokens()));
    if (response.input_tokens()) out.mutable_output()->set_prompt_logprobs(narrowed(response.top_n_tokens()));
  }
  fill_form(params.decoding(), out.mutable_output()->mutable_form());
  SLUICE_ASSIGN_OR_RETURN(CheckedRequest checked, name_form(check_generate(out, services, fresh_seed), "guided"));
  checked.prompt_text = text;
  if (stopping.time_limit_millis() > 0)
    checked.task.request.deadline = services.clock.now() + std::chrono::milliseconds(stopping.time_limit_millis());
  return checked;
}

}  // namespace sluice
