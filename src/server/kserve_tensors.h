// The tensors of KServe v2 messages: named inputs out of a request, named outputs into a response, raw or typed. Every
// error names the tensor, what was expected and what was found. Pure functions and values, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/status.h"

#include "inference/grpc_service.pb.h"

namespace sluice {

struct NamedTensor {
  std::string_view name;
  std::string_view datatype;  // of the protocol: "BYTES", "BOOL", "INT32", "UINT32", "FP32"
  bool optional = true;       // of inputs
};

// In the order in which a model's metadata shows them.
extern const std::vector<NamedTensor> kInputTensors;
extern const std::vector<NamedTensor> kOutputTensors;

inference::DataType config_datatype(std::string_view datatype);

// A request's inputs, each with the datatype that it must have and one element.
class InputTensors {
 public:
  // Borrows the request.
  static Result<InputTensors> open(const inference::ModelInferRequest& request);

  bool raw() const { return raw_; }  // as opposed to typed contents
  Result<std::optional<std::string>> bytes(std::string_view name) const;
  Result<std::optional<bool>> boolean(std::string_view name) const;
  Result<std::optional<int32_t>> integer(std::string_view name) const;

 private:
  struct Tensor {
    const inference::ModelInferRequest::InferInputTensor* tensor = nullptr;
    const std::string* raw = nullptr;  // null: typed
  };
  const Tensor* find(std::string_view name) const;

  std::map<std::string, Tensor, std::less<>> tensors_;
  bool raw_ = false;
};

// Appends one output.
void add_output(std::string_view name, const std::vector<std::string>& values, bool raw,
                inference::ModelInferResponse* response);
void add_output(std::string_view name, const std::vector<uint32_t>& values, bool raw,
                inference::ModelInferResponse* response);
void add_output(std::string_view name, const std::vector<float>& values, bool raw,
                inference::ModelInferResponse* response);

}  // namespace sluice
