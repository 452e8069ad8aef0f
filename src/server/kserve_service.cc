#include "server/kserve_service.h"

#include <utility>

#include "server/calls.h"
#include "server/kserve_request.h"
#include "server/kserve_stream.h"
#include "server/kserve_tensors.h"

namespace sluice {

namespace {

using namespace inference;  // the messages of this service

ModelMetadataResponse metadata_of(const ModelInfo& model) {
  ModelMetadataResponse out;
  out.set_name(model.name);
  out.add_versions(kModelVersion);
  out.set_platform("sluice");
  const auto add = [](const NamedTensor& spec, int64_t size, ModelMetadataResponse::TensorMetadata* tensor) {
    tensor->set_name(std::string(spec.name));
    tensor->set_datatype(std::string(spec.datatype));
    tensor->add_shape(size);
  };
  for (const NamedTensor& spec : kInputTensors) add(spec, 1, out.add_inputs());
  for (const NamedTensor& spec : kOutputTensors) add(spec, -1, out.add_outputs());
  return out;
}

ModelConfigResponse config_of(const ModelInfo& model) {
  ModelConfigResponse out;
  ModelConfig& config = *out.mutable_config();
  config.set_name(model.name);
  config.set_platform("sluice");
  config.set_backend("sluice");
  config.mutable_version_policy()->mutable_latest()->set_num_versions(1);
  config.set_max_batch_size(0);
  for (const NamedTensor& spec : kInputTensors) {
    ModelInput& input = *config.add_input();
    input.set_name(std::string(spec.name));
    input.set_data_type(config_datatype(spec.datatype));
    input.add_dims(1);
    input.set_optional(spec.optional);
  }
  for (const NamedTensor& spec : kOutputTensors) {
    ModelOutput& output = *config.add_output();
    output.set_name(std::string(spec.name));
    output.set_data_type(config_datatype(spec.datatype));
    output.add_dims(-1);
  }
  config.mutable_model_transaction_policy()->set_decoupled(true);
  return out;
}

}  // namespace

KServeService::KServeService(Door& door)
    : RpcService(*ModelInferRequest::descriptor()->file()->FindServiceByName("GRPCInferenceService"), door),
      services_(door.services()) {
  bind_descriptions();
  bind_infer();
  refuse_the_rest();
}

void KServeService::bind_descriptions() {
  bind<ServerLiveRequest>("ServerLive", [](const ServerLiveRequest&) -> Result<ServerLiveResponse> {
    ServerLiveResponse out;
    out.set_live(true);
    return out;
  });
  bind<ServerReadyRequest>("ServerReady", [this](const ServerReadyRequest&) -> Result<ServerReadyResponse> {
    ServerReadyResponse out;
    out.set_ready(door_.ready());
    return out;
  });
  bind<ModelReadyRequest>("ModelReady", [this](const ModelReadyRequest& request) -> Result<ModelReadyResponse> {
    ModelReadyResponse out;
    out.set_ready(door_.ready() && check_model_version(request.name(), request.version(), services_.model).ok());
    return out;
  });
  bind<ServerMetadataRequest>("ServerMetadata", [this](const ServerMetadataRequest&) -> Result<ServerMetadataResponse> {
    ServerMetadataResponse out;
    out.set_name("sluice");
    out.set_version(services_.version);
    for (const char* extension : {"model_configuration", "statistics", "parameters"}) out.add_extensions(extension);
    return out;
  });
  bind<ModelMetadataRequest>(
      "ModelMetadata", [this](const ModelMetadataRequest& request) -> Result<ModelMetadataResponse> {
        SLUICE_RETURN_IF_ERROR(check_model_version(request.name(), request.version(), services_.model));
        return metadata_of(services_.model);
      });
  bind<ModelConfigRequest>("ModelConfig", [this](const ModelConfigRequest& request) -> Result<ModelConfigResponse> {
    SLUICE_RETURN_IF_ERROR(check_model_version(request.name(), request.version(), services_.model));
    return config_of(services_.model);
  });
  bind<ModelStatisticsRequest>(
      "ModelStatistics", [this](const ModelStatisticsRequest& request) -> Result<ModelStatisticsResponse> {
        SLUICE_RETURN_IF_ERROR(check_model_version(request.name(), request.version(), services_.model));
        return statistics();
      });
  bind<RepositoryIndexRequest>("RepositoryIndex",
                               [this](const RepositoryIndexRequest& request) -> Result<RepositoryIndexResponse> {
                                 if (!request.repository_name().empty())
                                   return not_found("repository_name: \"{}\" is not known; there is one without a name",
                                                    request.repository_name().substr(0, 100));
                                 RepositoryIndexResponse out;
                                 if (request.ready() && !door_.ready()) return out;
                                 RepositoryIndexResponse::ModelIndex& model = *out.add_models();
                                 model.set_name(services_.model.name);
                                 model.set_version(kModelVersion);
                                 model.set_state(door_.ready() ? "READY" : "UNAVAILABLE");
                                 if (!door_.ready()) model.set_reason("the server is starting or draining");
                                 return out;
                               });
}

void KServeService::bind_infer() {
  bind_unary("ModelInfer", [this](const IncomingCall& incoming, const Bytes& bytes, Bytes* response) {
    auto* call = new UnaryCall(incoming, response);
    InferOptions options;
    const auto check = [&]() -> Result<CheckedRequest> {
      ModelInferRequest request;
      SLUICE_RETURN_IF_ERROR(parse_message(bytes, &request));
      SLUICE_ASSIGN_OR_RETURN(CheckedInfer infer, check_infer(request, services_, door_.fresh_seed()));
      if (infer.options.stream)
        return invalid_argument("stream: ModelInfer gives one response; call ModelStreamInfer, or leave it false");
      options = std::move(infer.options);
      return std::move(infer.checked);
    };
    Result<CheckedRequest> checked = check();
    if (!checked.ok()) counts_.add_failure({});
    call->start(door_, std::move(checked), Delivery::kWhole, [&](const CheckedRequest& task) {
      return std::make_unique<InferRenderer>(std::move(options), task, services_, counts_);
    });
    return call;
  });
  bind_bidi("ModelStreamInfer",
            [this](const IncomingCall& incoming) { return new InferStreamCall(incoming, door_, counts_); });
}

void KServeService::refuse_the_rest() {
  for (const char* method : {"RepositoryModelLoad", "RepositoryModelUnload"})
    refuse(method, "one model is loaded at the start and stays");
  for (const char* method : {"SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
                             "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"})
    refuse(method, "tensors travel in messages");
  for (const char* method : {"TraceSetting", "LogSettings"}) refuse(method, "settings are options of `sluice serve`");
}

ModelStatisticsResponse KServeService::statistics() const {
  ModelStatisticsResponse out;
  ModelStatistics& model = *out.add_model_stats();
  model.set_name(services_.model.name);
  model.set_version(kModelVersion);
  counts_.fill(&model);
  if (!services_.report) return out;
  for (const auto& [item, bytes] : services_.report().memory_bytes) {
    MemoryUsage& usage = *model.add_memory_usage();
    usage.set_type(item);
    usage.set_byte_size(static_cast<uint64_t>(bytes));
  }
  return out;
}

}  // namespace sluice
