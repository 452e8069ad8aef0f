// Request bodies of all gRPC services: any bytes are parsed as protobuf and then read by the protocol's own checks. The
// first byte says which message they are. Half of the mutations keep to the message's fields, so that the checks behind
// the parser are reached.
#include <google/protobuf/message.h>

#include <random>

#include "sluice/v1/inference.pb.h"

#include "fmaas/generation.pb.h"
#include "inference/grpc_service.pb.h"
#include "server/fmaas_request.h"
#include "server/kserve_request.h"
#include "server/output_form.h"
#include "server/validate.h"
#include "server/vllm_request.h"
#include "tests/fuzz/fuzz_services.h"
#include "vllm/grpc/engine/vllm_engine.pb.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace sluice {
namespace {

namespace pb = google::protobuf;

constexpr int kNumKinds = 6;

std::unique_ptr<pb::Message> message_of(uint8_t kind) {
  switch (kind % kNumKinds) {
    case 0:
      return std::make_unique<v1::GenerateRequest>();
    case 1:
      return std::make_unique<v1::ChatRequest>();
    case 2:
      return std::make_unique<inference::ModelInferRequest>();
    case 3:
      return std::make_unique<vllm::grpc::engine::GenerateRequest>();
    case 4:
      return std::make_unique<fmaas::SingleGenerationRequest>();
    default:
      return std::make_unique<v1::DetokenizeRequest>();
  }
}

void check(const pb::Message& message, const Services& services) {
  if (const auto* native = dynamic_cast<const v1::GenerateRequest*>(&message))
    return expect_sound(check_generate(*native, services, 7), services.model);
  if (const auto* chat = dynamic_cast<const v1::ChatRequest*>(&message))
    return expect_sound(check_chat(*chat, services, 7), services.model);
  if (const auto* vllm_request = dynamic_cast<const vllm::grpc::engine::GenerateRequest*>(&message))
    return expect_sound(check_vllm(*vllm_request, services, 7), services.model);
  if (const auto* infer = dynamic_cast<const inference::ModelInferRequest*>(&message)) {
    const auto checked = check_infer(*infer, services, 7);
    return expect_sound(checked.ok() ? Result<CheckedRequest>(checked->checked) : checked.status(), services.model);
  }
  if (const auto* single = dynamic_cast<const fmaas::SingleGenerationRequest*>(&message)) {
    if (!check_fmaas_params(single->params(), services.model).ok()) return;
    return expect_sound(check_fmaas(single->request().text(), single->params(), services, 7), services.model);
  }
  (void)check_detokenize(dynamic_cast<const v1::DetokenizeRequest&>(message), services);
}

// ---- mutations by field

class FieldMutator {
 public:
  explicit FieldMutator(uint32_t seed) : random_(seed) {}

  void mutate(pb::Message& message, int depth = 0) {
    const pb::Descriptor& type = *message.GetDescriptor();
    if (type.field_count() == 0) return;
    const pb::FieldDescriptor& field =
        *type.field(static_cast<int>(random_() % static_cast<uint32_t>(type.field_count())));
    const pb::Reflection& of = *message.GetReflection();
    if (random_() % 8 == 0) return of.ClearField(&message, &field);
    if (field.cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
      if (depth > 6) return;
      pb::Message* inner = nullptr;
      if (!field.is_repeated()) {
        inner = of.MutableMessage(&message, &field);
      } else {
        const int count = of.FieldSize(message, &field);
        inner = count == 0 || random_() % 3 == 0
                    ? of.AddMessage(&message, &field)
                    : of.MutableRepeatedMessage(&message, &field,
                                                static_cast<int>(random_() % static_cast<uint32_t>(count)));
      }
      return mutate(*inner, depth + 1);
    }
    set(message, field, of);
  }

 private:
  int64_t number() {
    constexpr int64_t kEdges[] = {0, 1, -1, 2, 16, 17, 255, 2047, 2048, 4095, 4096, INT32_MAX, INT32_MIN, INT64_MAX};
    return random_() % 2 ? kEdges[random_() % std::size(kEdges)] : static_cast<int64_t>(random_() % 64);
  }
  std::string text(std::string old) {
    constexpr const char* kWords[] = {"",
                                      "Once upon a time",
                                      "demo-moe",
                                      "text_input",
                                      "sampling_parameters",
                                      "BYTES",
                                      "stream",
                                      R"({"temperature": 0, "max_tokens": 4, "stop": "x"})",
                                      R"({"type": "object"})",
                                      "[a-z]+",
                                      "root ::= \"a\" | \"b\"",
                                      "\xff",
                                      "deepseek-v3"};
    if (random_() % 2) return kWords[random_() % std::size(kWords)];
    old.resize(std::max<size_t>(old.size(), 1) + 16);
    old.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(old.data()), old.size() - 16, old.size()));
    return old;
  }
  template <typename T>
  T real() {
    constexpr T kEdges[] = {
        0, 1, T(0.5), -1, 2, 100, std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()};
    return kEdges[random_() % std::size(kEdges)];
  }

#define SLUICE_FUZZ_SET(Type, value)                                     \
  if (field.is_repeated()) return of.Add##Type(&message, &field, value); \
  return of.Set##Type(&message, &field, value)
  void set(pb::Message& message, const pb::FieldDescriptor& field, const pb::Reflection& of) {
    switch (field.cpp_type()) {
      case pb::FieldDescriptor::CPPTYPE_INT32:
        SLUICE_FUZZ_SET(Int32, static_cast<int32_t>(number()));
      case pb::FieldDescriptor::CPPTYPE_INT64:
        SLUICE_FUZZ_SET(Int64, number());
      case pb::FieldDescriptor::CPPTYPE_UINT32:
        SLUICE_FUZZ_SET(UInt32, static_cast<uint32_t>(number()));
      case pb::FieldDescriptor::CPPTYPE_UINT64:
        SLUICE_FUZZ_SET(UInt64, static_cast<uint64_t>(number()));
      case pb::FieldDescriptor::CPPTYPE_FLOAT:
        SLUICE_FUZZ_SET(Float, real<float>());
      case pb::FieldDescriptor::CPPTYPE_DOUBLE:
        SLUICE_FUZZ_SET(Double, real<double>());
      case pb::FieldDescriptor::CPPTYPE_BOOL:
        SLUICE_FUZZ_SET(Bool, random_() % 2 == 0);
      case pb::FieldDescriptor::CPPTYPE_ENUM:
        SLUICE_FUZZ_SET(EnumValue, static_cast<int>(random_() % 5));
      case pb::FieldDescriptor::CPPTYPE_STRING: {
        const std::string old = field.is_repeated() ? "" : of.GetString(message, &field);
        SLUICE_FUZZ_SET(String, text(old));
      }
      case pb::FieldDescriptor::CPPTYPE_MESSAGE:
        return;
    }
  }
#undef SLUICE_FUZZ_SET

  std::minstd_rand random_;
};

FuzzServices& fixture() {
  static FuzzServices services;
  return services;
}

}  // namespace
}  // namespace sluice

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  if (size == 0) data[size++] = static_cast<uint8_t>(seed);
  const auto message = sluice::message_of(data[0]);
  if (seed % 2 == 0 || !message->ParsePartialFromArray(data + 1, static_cast<int>(size - 1)))
    return std::max<size_t>(1, LLVMFuzzerMutate(data, size, max_size));
  sluice::FieldMutator mutator(seed);
  for (unsigned int i = 0; i <= seed / 2 % 4; ++i) mutator.mutate(*message);
  const std::string bytes = message->SerializePartialAsString();
  if (bytes.size() + 1 > max_size) return size;
  std::copy(bytes.begin(), bytes.end(), data + 1);
  return bytes.size() + 1;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto message = sluice::message_of(data[0]);
  if (message->ParseFromArray(data + 1, static_cast<int>(size - 1)))
    sluice::check(*message, sluice::fixture().services());
  return 0;
}
