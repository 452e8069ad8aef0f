#include "server/kserve_request.h"

#include <algorithm>
#include <utility>

#include "server/kserve_tensors.h"
#include "server/output_form.h"
#include "server/sampling_json.h"

namespace sluice {

namespace {

using inference::InferParameter;
using inference::ModelInferRequest;

Json json_of(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return parameter.bool_param();
    case InferParameter::kInt64Param:
      return parameter.int64_param();
    case InferParameter::kUint64Param:
      return parameter.uint64_param();
    case InferParameter::kStringParam:
      return parameter.string_param();
    case InferParameter::kDoubleParam:
      return parameter.double_param();
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      return nullptr;
  }
  return nullptr;
}

Result<int64_t> whole_number(const std::string& key, const InferParameter& parameter, int64_t max) {
  int64_t value = -1;
  if (parameter.has_int64_param()) value = parameter.int64_param();
  if (parameter.has_uint64_param() && std::in_range<int64_t>(parameter.uint64_param()))
    value = static_cast<int64_t>(parameter.uint64_param());
  if (value >= 0 && value <= max) return value;
  return invalid_argument("parameters: {}: expected a whole number in [0, {}], found {}", key, max,
                          json_of(parameter).dump(-1, ' ', false, Json::error_handler_t::replace));
}

// The parameters that are the protocol's own; the others are sampling parameters, if no tensor brings those.
struct Parameters {
  Duration timeout{};  // 0: none
  int32_t priority = 0;
  std::map<std::string, bool> flags;
};

bool means_nothing_here(const std::string& key) { return key.starts_with("sequence_"); }

bool is_flag(const std::string& key) {
  return key == "stream" || key == "streaming" || key == "exclude_input_in_output" || key.starts_with("return_");
}

Result<Parameters> read_parameters(const ModelInferRequest& request, bool with_sampling,
                                   v1::GenerateRequest* generate) {
  Parameters out;
  for (const auto& [key, parameter] : request.parameters()) {
    if (means_nothing_here(key)) continue;
    if (key == "timeout") {
      SLUICE_ASSIGN_OR_RETURN(const int64_t micros, whole_number(key, parameter, int64_t{1} << 50));
      out.timeout = std::chrono::microseconds(micros);
    } else if (key == "priority") {
      SLUICE_ASSIGN_OR_RETURN(const int64_t priority, whole_number(key, parameter, INT32_MAX));
      out.priority = static_cast<int32_t>(priority);
    } else if (key == "triton_enable_empty_final_response" || is_flag(key)) {
      if (!parameter.has_bool_param()) return invalid_argument("parameters: {}: expected a bool", key);
      out.flags[key] = parameter.bool_param();
    } else if (with_sampling) {
      SLUICE_RETURN_IF_ERROR(read_sampling_parameter(key, json_of(parameter), generate).with_context("parameters"));
    } else {
      return invalid_argument("parameters: \"{}\" is not known beside the tensor sampling_parameters", key);
    }
  }
  return out;
}

Result<bool> flag(const InputTensors& tensors, const Parameters& parameters, const std::string& name) {
  SLUICE_ASSIGN_OR_RETURN(const std::optional<bool> given, tensors.boolean(name));
  if (given) return *given;
  const auto place = parameters.flags.find(name);
  return place != parameters.flags.end() && place->second;
}

Status read_flags(const InputTensors& tensors, const Parameters& parameters, InferOptions* options) {
  SLUICE_ASSIGN_OR_RETURN(const bool stream, flag(tensors, parameters, "stream"));
  SLUICE_ASSIGN_OR_RETURN(const bool streaming, flag(tensors, parameters, "streaming"));
  options->stream = stream || streaming;
  SLUICE_ASSIGN_OR_RETURN(const bool exclude, flag(tensors, parameters, "exclude_input_in_output"));
  options->prepend_input = !options->stream && !exclude;
  SLUICE_ASSIGN_OR_RETURN(options->finish_reason, flag(tensors, parameters, "return_finish_reason"));
  SLUICE_ASSIGN_OR_RETURN(options->cumulative_logprob, flag(tensors, parameters, "return_cumulative_logprob"));
  SLUICE_ASSIGN_OR_RETURN(options->logprobs, flag(tensors, parameters, "return_logprobs"));
  SLUICE_ASSIGN_OR_RETURN(options->num_input_tokens, flag(tensors, parameters, "return_num_input_tokens"));
  SLUICE_ASSIGN_OR_RETURN(options->num_output_tokens, flag(tensors, parameters, "return_num_output_tokens"));
  return {};
}

// Naming outputs leaves the others away; what only a flag brings, naming does not.
Status apply_requested_outputs(const ModelInferRequest& request, InferOptions* options) {
  if (request.outputs_size() == 0) return {};
  const std::pair<const char*, bool*> outputs[] = {{"text_output", &options->text},
                                                   {"finish_reason", &options->finish_reason},
                                                   {"cumulative_logprob", &options->cumulative_logprob},
                                                   {"logprobs", &options->logprobs},
                                                   {"num_input_tokens", &options->num_input_tokens},
                                                   {"num_output_tokens", &options->num_output_tokens}};
  for (const auto& wanted : request.outputs()) {
    if (std::ranges::find(kOutputTensors, wanted.name(), &NamedTensor::name) == kOutputTensors.end()) {
      std::string known;
      for (const NamedTensor& spec : kOutputTensors) known += (known.empty() ? "" : ", ") + std::string(spec.name);
      return invalid_argument("outputs: \"{}\" is not known; expected one of {}", wanted.name(), known);
    }
    for (const char* key : {"shared_memory_region", "classification"})
      if (wanted.parameters().contains(key))
        return {StatusCode::kUnimplemented, fmt::format("{}: the parameter {} is not supported", wanted.name(), key)};
  }
  for (const auto& [name, shown] : outputs)
    *shown = *shown && std::ranges::any_of(request.outputs(), [&](const auto& out) { return out.name() == name; });
  return {};
}

// The native message's fields under the names that this client knows.
Status in_words_of_protocol(const Status& status) {
  if (status.ok() || status.code() == StatusCode::kNotFound) return status;
  if (status.message().starts_with("text:")) return {status.code(), "text_input" + status.message().substr(4)};
  return status.with_context("sampling_parameters");
}

Status read_tensors(const InputTensors& tensors, v1::GenerateRequest* generate) {
  SLUICE_ASSIGN_OR_RETURN(std::optional<std::string> text, tensors.bytes("text_input"));
  if (!text) return invalid_argument("text_input: expected a BYTES tensor, found none");
  generate->set_text(std::move(*text));
  SLUICE_ASSIGN_OR_RETURN(const std::optional<std::string> sampling, tensors.bytes("sampling_parameters"));
  if (sampling && !sampling->empty())
    SLUICE_RETURN_IF_ERROR(read_sampling_json(*sampling, "sampling_parameters", generate));
  SLUICE_ASSIGN_OR_RETURN(const std::optional<int32_t> max_tokens, tensors.integer("max_tokens"));
  if (max_tokens) generate->mutable_stopping()->set_max_tokens(*max_tokens);
  SLUICE_ASSIGN_OR_RETURN(const std::optional<int32_t> min_length, tensors.integer("min_length"));
  if (min_length) generate->mutable_stopping()->set_min_tokens(*min_length);
  return {};
}

}  // namespace

Status check_model_version(const std::string& model, const std::string& version, const ModelInfo& served) {
  SLUICE_RETURN_IF_ERROR(check_model(model, served));
  if (version.empty() || version == kModelVersion) return {};
  return not_found("model_version: \"{}\" of \"{}\" is not served here; \"{}\" is", version.substr(0, 100), served.name,
                   kModelVersion);
}

Result<CheckedInfer> check_infer(const ModelInferRequest& request, const Services& services, uint64_t fresh_seed) {
  SLUICE_RETURN_IF_ERROR(check_model_version(request.model_name(), request.model_version(), services.model));
  SLUICE_ASSIGN_OR_RETURN(const InputTensors tensors, InputTensors::open(request));
  v1::GenerateRequest generate;
  SLUICE_RETURN_IF_ERROR(read_tensors(tensors, &generate));
  SLUICE_ASSIGN_OR_RETURN(const std::optional<std::string> sampling, tensors.bytes("sampling_parameters"));
  SLUICE_ASSIGN_OR_RETURN(const Parameters parameters, read_parameters(request, !sampling, &generate));
  CheckedInfer out;
  out.options.id = request.id();
  out.options.raw = tensors.raw();
  SLUICE_RETURN_IF_ERROR(read_flags(tensors, parameters, &out.options));
  SLUICE_RETURN_IF_ERROR(apply_requested_outputs(request, &out.options));
  // The log-probability of the drawn token at least.
  if ((out.options.logprobs || out.options.cumulative_logprob) && !generate.output().has_logprobs())
    generate.mutable_output()->set_logprobs(0);
  if (generate.output().has_prompt_logprobs())
    return failed_precondition("sampling_parameters: prompt_logprobs: no output tensor could hold them");
  generate.mutable_output()->set_echo(out.options.prepend_input);
  generate.set_priority(parameters.priority);
  Result<CheckedRequest> checked = name_form(check_generate(generate, services, fresh_seed), "structured_outputs");
  if (!checked.ok()) return in_words_of_protocol(checked.status());
  out.checked = std::move(*checked);
  if (out.checked.task.form) out.checked.task.form->field = "sampling_parameters: structured_outputs";
  if (parameters.timeout > Duration{}) out.checked.task.request.deadline = services.clock.now() + parameters.timeout;
  return out;
}

}  // namespace sluice
