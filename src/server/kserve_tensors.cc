#include "server/kserve_tensors.h"

#include <algorithm>
#include <cstring>

#include "tokenizer/utf8.h"

namespace sluice {

namespace {

using inference::InferTensorContents;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using Shape = google::protobuf::RepeatedField<int64_t>;

std::string shown(const std::string& name) { return name.substr(0, valid_utf8_prefix(name.substr(0, 100))); }

// Datatypes are exact, but for the two counts, which clients send in any width.
bool takes(const NamedTensor& spec, const std::string& datatype) {
  if (spec.datatype != "INT32") return datatype == spec.datatype;
  return datatype == "INT32" || datatype == "INT64" || datatype == "UINT32" || datatype == "UINT64";
}

const NamedTensor* find_input(const std::string& name) {
  const auto place = std::ranges::find(kInputTensors, name, &NamedTensor::name);
  return place == kInputTensors.end() ? nullptr : &*place;
}

Status unknown_input(const std::string& name) {
  std::string known;
  for (const NamedTensor& spec : kInputTensors) known += (known.empty() ? "" : ", ") + std::string(spec.name);
  return invalid_argument("inputs: \"{}\" is not known; expected one of {}", shown(name), known);
}

// One element: [1], or [1, 1] from clients that think of batches.
Status check_shape(const ModelInferRequest::InferInputTensor& tensor) {
  const Shape& shape = tensor.shape();
  if (!shape.empty() && shape.size() <= 2 && std::ranges::all_of(shape, [](int64_t dim) { return dim == 1; }))
    return {};
  return invalid_argument("{}: expected shape [1], found [{}]", tensor.name(), fmt::join(shape, ", "));
}

Status wrong_count(const std::string& name, const std::string& datatype, int found) {
  return invalid_argument("{}: expected 1 {} element in its contents, found {}", name, datatype, found);
}

// The one element of raw contents with a fixed width.
template <typename T>
Result<T> raw_element(const ModelInferRequest::InferInputTensor& tensor, const std::string& raw) {
  if (raw.size() != sizeof(T))
    return invalid_argument("{}: expected {} bytes of {} [1], found {}", tensor.name(), sizeof(T), tensor.datatype(),
                            raw.size());
  T value;
  std::memcpy(&value, raw.data(), sizeof(T));  // the protocol is little-endian, and so are we
  return value;
}

template <typename Values>
Result<int64_t> typed_element(const ModelInferRequest::InferInputTensor& tensor, const Values& values) {
  if (values.size() != 1) return wrong_count(tensor.name(), tensor.datatype(), values.size());
  if (!std::in_range<int64_t>(values[0]))
    return invalid_argument("{}: expected a smaller number, found {}", tensor.name(), values[0]);
  return static_cast<int64_t>(values[0]);
}

ModelInferResponse::InferOutputTensor& add_tensor(std::string_view name, const char* datatype, size_t count,
                                                  ModelInferResponse* response) {
  ModelInferResponse::InferOutputTensor& tensor = *response->add_outputs();
  tensor.set_name(std::string(name));
  tensor.set_datatype(datatype);
  tensor.add_shape(static_cast<int64_t>(count));
  return tensor;
}

template <typename T>
std::string raw_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

const std::vector<NamedTensor> kInputTensors = {{"text_input", "BYTES", false},
                                               {"stream", "BOOL"},
                                               {"streaming", "BOOL"},
                                               {"sampling_parameters", "BYTES"},
                                               {"max_tokens", "INT32"},
                                               {"min_length", "INT32"},
                                               {"exclude_input_in_output", "BOOL"},
                                               {"return_finish_reason", "BOOL"},
                                               {"return_cumulative_logprob", "BOOL"},
                                               {"return_logprobs", "BOOL"},
                                               {"return_num_input_tokens", "BOOL"},
                                               {"return_num_output_tokens", "BOOL"}};

const std::vector<NamedTensor> kOutputTensors = {{"text_output", "BYTES"},       {"finish_reason", "BYTES"},
                                                {"cumulative_logprob", "FP32"}, {"logprobs", "BYTES"},
                                                {"num_input_tokens", "UINT32"}, {"num_output_tokens", "UINT32"}};

inference::DataType config_datatype(std::string_view datatype) {
  if (datatype == "BYTES") return inference::TYPE_STRING;
  if (datatype == "BOOL") return inference::TYPE_BOOL;
  if (datatype == "INT32") return inference::TYPE_INT32;
  if (datatype == "UINT32") return inference::TYPE_UINT32;
  if (datatype == "FP32") return inference::TYPE_FP32;
  return inference::TYPE_INVALID;
}

Result<InputTensors> InputTensors::open(const ModelInferRequest& request) {
  InputTensors out;
  out.raw_ = request.raw_input_contents_size() > 0;
  for (int i = 0; i < request.inputs_size(); ++i) {
    const ModelInferRequest::InferInputTensor& tensor = request.inputs(i);
    const NamedTensor* spec = find_input(tensor.name());
    if (!spec) return unknown_input(tensor.name());
    if (tensor.parameters().contains("shared_memory_region"))
      return Status(StatusCode::kUnimplemented,
                    tensor.name() + ": shared memory is not supported; send the contents in the message");
    if (!takes(*spec, tensor.datatype()))
      return invalid_argument("{}: expected datatype {}, found \"{}\"", spec->name, spec->datatype,
                              shown(tensor.datatype()));
    SLUICE_RETURN_IF_ERROR(check_shape(tensor));
    if (out.raw_ && tensor.has_contents())
      return invalid_argument("{}: has typed contents, but the request has raw_input_contents too", spec->name);
    const std::string* raw = nullptr;
    if (out.raw_ && i < request.raw_input_contents_size()) raw = &request.raw_input_contents(i);
    if (!out.tensors_.emplace(tensor.name(), Tensor{&tensor, raw}).second)
      return invalid_argument("inputs: \"{}\" is there twice", tensor.name());
  }
  if (out.raw_ && request.raw_input_contents_size() != request.inputs_size())
    return invalid_argument("raw_input_contents: expected one for each of {} inputs, found {}", request.inputs_size(),
                            request.raw_input_contents_size());
  return out;
}

const InputTensors::Tensor* InputTensors::find(std::string_view name) const {
  const auto place = tensors_.find(name);
  return place == tensors_.end() ? nullptr : &place->second;
}

Result<std::optional<std::string>> InputTensors::bytes(std::string_view name) const {
  const Tensor* tensor = find(name);
  if (!tensor) return std::optional<std::string>();
  if (!tensor->raw) {
    const auto& values = tensor->tensor->contents().bytes_contents();
    if (values.size() != 1) return wrong_count(tensor->tensor->name(), "BYTES", values.size());
    return std::optional<std::string>(values[0]);
  }
  const std::string& raw = *tensor->raw;
  uint32_t length = 0;
  if (raw.size() >= sizeof(length)) std::memcpy(&length, raw.data(), sizeof(length));
  if (raw.size() != sizeof(length) + length)
    return invalid_argument("{}: expected one element behind its length in 4 bytes, found {} bytes with length {}",
                            name, raw.size(), length);
  return std::optional<std::string>(raw.substr(sizeof(length)));
}

Result<std::optional<bool>> InputTensors::boolean(std::string_view name) const {
  const Tensor* tensor = find(name);
  if (!tensor) return std::optional<bool>();
  if (!tensor->raw) {
    const auto& values = tensor->tensor->contents().bool_contents();
    if (values.size() != 1) return wrong_count(tensor->tensor->name(), "BOOL", values.size());
    return std::optional<bool>(values[0]);
  }
  SLUICE_ASSIGN_OR_RETURN(const uint8_t value, raw_element<uint8_t>(*tensor->tensor, *tensor->raw));
  return std::optional<bool>(value != 0);
}

Result<std::optional<int32_t>> InputTensors::integer(std::string_view name) const {
  const Tensor* found = find(name);
  if (!found) return std::optional<int32_t>();
  const ModelInferRequest::InferInputTensor& tensor = *found->tensor;
  const std::string& datatype = tensor.datatype();
  const InferTensorContents& typed = tensor.contents();
  // Widened to int64_t, whatever the width on the wire.
  const auto read = [&]<typename T>(T, const auto& values) -> Result<int64_t> {
    if (!found->raw) return typed_element(tensor, values);
    SLUICE_ASSIGN_OR_RETURN(const T value, raw_element<T>(tensor, *found->raw));
    return typed_element(tensor, google::protobuf::RepeatedField<T>(&value, &value + 1));
  };
  Result<int64_t> value = datatype == "INT32"    ? read(int32_t{}, typed.int_contents())
                          : datatype == "UINT32" ? read(uint32_t{}, typed.uint_contents())
                          : datatype == "INT64"  ? read(int64_t{}, typed.int64_contents())
                                                 : read(uint64_t{}, typed.uint64_contents());
  if (!value.ok()) return value.status();
  if (!std::in_range<int32_t>(*value)) return invalid_argument("{}: must fit 32 bits, got {}", name, *value);
  return std::optional<int32_t>(static_cast<int32_t>(*value));
}

void add_output(std::string_view name, const std::vector<std::string>& values, bool raw, ModelInferResponse* response) {
  auto& tensor = add_tensor(name, "BYTES", values.size(), response);
  if (!raw) {
    tensor.mutable_contents()->mutable_bytes_contents()->Assign(values.begin(), values.end());
    return;
  }
  std::string& bytes = *response->add_raw_output_contents();
  for (const std::string& value : values) {
    const auto length = static_cast<uint32_t>(value.size());
    bytes.append(reinterpret_cast<const char*>(&length), sizeof(length));
    bytes += value;
  }
}

void add_output(std::string_view name, const std::vector<uint32_t>& values, bool raw, ModelInferResponse* response) {
  auto& tensor = add_tensor(name, "UINT32", values.size(), response);
  if (raw) {
    *response->add_raw_output_contents() = raw_bytes(values);
  } else {
    tensor.mutable_contents()->mutable_uint_contents()->Assign(values.begin(), values.end());
  }
}

void add_output(std::string_view name, const std::vector<float>& values, bool raw, ModelInferResponse* response) {
  auto& tensor = add_tensor(name, "FP32", values.size(), response);
  if (raw) {
    *response->add_raw_output_contents() = raw_bytes(values);
  } else {
    tensor.mutable_contents()->mutable_fp32_contents()->Assign(values.begin(), values.end());
  }
}

}  // namespace sluice
