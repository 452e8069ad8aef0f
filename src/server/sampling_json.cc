#include "server/sampling_json.h"

#include <charconv>
#include <functional>
#include <limits>
#include <map>

#include "server/output_form.h"
#include "tokenizer/json_field.h"

namespace sluice {

namespace {

using json = Json;

std::string shown(const json& value) {
  constexpr size_t kMaxShown = 60;
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

// Strings become the number or truth value that they spell.
Result<double> number(const std::string& key, const json& value) {
  if (value.is_number()) return value.get<double>();
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    double out = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (error == std::errc{} && end == text.data() + text.size()) return out;
  }
  return invalid_argument("{}: expected a number, found {}", key, shown(value));
}

template <typename Integer>
Result<Integer> integer(const std::string& key, const json& value) {
  Integer out = 0;
  if (value.is_number_unsigned()) {
    const uint64_t wide = value.get<uint64_t>();
    if (std::in_range<Integer>(wide)) return static_cast<Integer>(wide);
  } else if (value.is_number_integer()) {
    const int64_t wide = value.get<int64_t>();
    if (std::in_range<Integer>(wide)) return static_cast<Integer>(wide);
  } else if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (error == std::errc{} && end == text.data() + text.size()) return out;
  }
  return invalid_argument("{}: expected a whole number in [{}, {}], found {}", key, std::numeric_limits<Integer>::min(),
                          std::numeric_limits<Integer>::max(), shown(value));
}

Result<bool> boolean(const std::string& key, const json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value == "true" || value == "True") return true;
  if (value == "false" || value == "False") return false;
  return invalid_argument("{}: expected true or false, found {}", key, shown(value));
}

// Only this value means what we do.
Status expect(const std::string& key, const json& value, const json& wanted) {
  bool same = false;
  if (wanted.is_boolean()) {
    SLUICE_ASSIGN_OR_RETURN(const bool given, boolean(key, value));
    same = given == wanted.get<bool>();
  } else {
    SLUICE_ASSIGN_OR_RETURN(const double given, number(key, value));
    same = given == wanted.get<double>();
  }
  if (same) return {};
  return failed_precondition("{}: only {} is supported, found {}", key, wanted.dump(), shown(value));
}

Status read_stop(const std::string& key, const json& value, v1::GenerateRequest* out) {
  const json list = value.is_array() ? value : json::array({value});
  for (const json& item : list) {
    if (!item.is_string())
      return invalid_argument("{}: expected a string or a list of them, found {}", key, shown(value));
    out->mutable_stopping()->add_stop_strings(item.get<std::string>());
  }
  return {};
}

Status read_stop_token_ids(const std::string& key, const json& value, v1::GenerateRequest* out) {
  if (!value.is_array()) return invalid_argument("{}: expected a list of token ids, found {}", key, shown(value));
  for (const json& item : value) {
    SLUICE_ASSIGN_OR_RETURN(const uint32_t id, integer<uint32_t>(key, item));
    out->mutable_stopping()->add_stop_token_ids(id);
  }
  return {};
}

Status read_logit_bias(const std::string& key, const json& value, v1::GenerateRequest* out) {
  if (!value.is_object()) return invalid_argument("{}: expected {{token id: bias}}, found {}", key, shown(value));
  for (const auto& [id, bias] : value.items()) {
    SLUICE_ASSIGN_OR_RETURN(const uint32_t token, integer<uint32_t>(key, json(id)));
    SLUICE_ASSIGN_OR_RETURN(const double number_of_token, number(key, bias));
    (*out->mutable_sampling()->mutable_logit_bias())[token] = static_cast<float>(number_of_token);
  }
  return {};
}

using Reader = std::function<Status(const std::string&, const json&, v1::GenerateRequest*)>;

Reader real(void (v1::Sampling::*set)(float)) {
  return [set](const std::string& key, const json& value, v1::GenerateRequest* out) -> Status {
    SLUICE_ASSIGN_OR_RETURN(const double wide, number(key, value));
    (out->mutable_sampling()->*set)(static_cast<float>(wide));
    return {};
  };
}

// A whole number into the message that `part` gives.
template <typename Part, typename Integer>
Reader whole(Part* (v1::GenerateRequest::*part)(), void (Part::*set)(Integer)) {
  return [part, set](const std::string& key, const json& value, v1::GenerateRequest* out) -> Status {
    SLUICE_ASSIGN_OR_RETURN(const Integer given, integer<Integer>(key, value));
    ((out->*part)()->*set)(given);
    return {};
  };
}

Reader only(json wanted) {
  return [wanted = std::move(wanted)](const std::string& key, const json& value, v1::GenerateRequest*) {
    return expect(key, value, wanted);
  };
}

std::map<std::string, Reader> make_readers() {
  using v1::GenerateRequest;
  using v1::Output;
  using v1::Sampling;
  using v1::Stopping;
  const auto integer_of_request = [](const std::string& key, const json& value, GenerateRequest* out) -> Status {
    SLUICE_ASSIGN_OR_RETURN(const int32_t given, integer<int32_t>(key, value));
    if (key == "n") {
      out->set_n(given);
    } else {
      out->mutable_sampling()->set_top_k(given == -1 ? 0 : given);  // vLLM's "all"
    }
    return {};
  };
  const auto ignore_eos = [](const std::string& key, const json& value, GenerateRequest* out) -> Status {
    SLUICE_ASSIGN_OR_RETURN(const bool given, boolean(key, value));
    out->mutable_stopping()->set_ignore_eos(given);
    return {};
  };
  const auto form = [](const std::string& key, const json& value, GenerateRequest* out) {
    return read_structured_outputs(value, key, out->mutable_output()->mutable_form());
  };
  return {{"n", integer_of_request},
          {"structured_outputs", form},
          {"guided_decoding", form},  // its name before vLLM 0.12
          {"top_k", integer_of_request},
          {"temperature", real(&Sampling::set_temperature)},
          {"top_p", real(&Sampling::set_top_p)},
          {"min_p", real(&Sampling::set_min_p)},
          {"repetition_penalty", real(&Sampling::set_repetition_penalty)},
          {"presence_penalty", real(&Sampling::set_presence_penalty)},
          {"frequency_penalty", real(&Sampling::set_frequency_penalty)},
          {"logit_bias", read_logit_bias},
          {"seed", whole(&GenerateRequest::mutable_sampling, &Sampling::set_seed)},
          {"max_tokens", whole(&GenerateRequest::mutable_stopping, &Stopping::set_max_tokens)},
          {"min_tokens", whole(&GenerateRequest::mutable_stopping, &Stopping::set_min_tokens)},
          {"stop", read_stop},
          {"stop_token_ids", read_stop_token_ids},
          {"ignore_eos", ignore_eos},
          {"logprobs", whole(&GenerateRequest::mutable_output, &Output::set_logprobs)},
          {"prompt_logprobs", whole(&GenerateRequest::mutable_output, &Output::set_prompt_logprobs)},
          {"skip_special_tokens", only(true)},
          {"spaces_between_special_tokens", only(true)},
          {"detokenize", only(true)},
          {"include_stop_str_in_output", only(false)},
          {"use_beam_search", only(false)},
          {"early_stopping", only(false)},
          {"length_penalty", only(1.0)},
          {"best_of", only(1)}};
}

}  // namespace

Status read_sampling_parameter(const std::string& key, const json& value, v1::GenerateRequest* out) {
  static const std::map<std::string, Reader> readers = make_readers();
  const auto place = readers.find(key);
  if (place == readers.end()) {
    std::string known;
    for (const auto& [name, reader] : readers) known += (known.empty() ? "" : ", ") + name;
    return invalid_argument("{}: is not known; expected one of {}", shown(json(key)), known);
  }
  if (value.is_null()) return {};
  return place->second(key, value, out);
}

Status read_sampling_json(std::string_view text, const std::string& field, v1::GenerateRequest* out) {
  SLUICE_ASSIGN_OR_RETURN(const json object, parse_json(text, field));
  if (!object.is_object()) return invalid_argument("{}: expected a JSON object, found {}", field, shown(object));
  for (const auto& [key, value] : object.items())
    SLUICE_RETURN_IF_ERROR(read_sampling_parameter(key, value, out).with_context(field));
  return {};
}

}  // namespace sluice
