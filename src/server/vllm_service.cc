#include "server/vllm_service.h"

#include <fmt/chrono.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "sluice/kv_layout.h"

#include "server/calls.h"
#include "server/digest.h"
#include "server/tokenizer_bundle.h"
#include "server/vllm_answer.h"
#include "server/vllm_request.h"

namespace sluice {

namespace {

using namespace vllm::grpc::engine;  // the messages of this service
namespace common = smg::grpc::common;

// Far below any client's message limit (4 MiB by default).
constexpr size_t kChunkBytes = 1 << 20;
// The shortest time over which a rate means something.
constexpr Duration kRateWindow = std::chrono::milliseconds(500);

double time_of_day() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// `architectures` of config.json; none if there is no such list.
std::vector<std::string> architectures_of(const std::string& directory) {
  std::ifstream file(std::filesystem::path(directory) / "config.json");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const nlohmann::json config = nlohmann::json::parse(text, nullptr, false);
  std::vector<std::string> names;
  if (!config.is_object() || !config.contains("architectures")) return names;
  for (const nlohmann::json& name : config["architectures"])
    if (name.is_string()) names.push_back(name.get<std::string>());
  return names;
}

std::string default_sampling_json(const sluice::SamplingParams& sampling) {
  return nlohmann::json({{"temperature", sampling.temperature},
                         {"top_p", sampling.top_p},
                         {"top_k", sampling.top_k},
                         {"min_p", sampling.min_p},
                         {"repetition_penalty", sampling.repetition_penalty}})
      .dump();
}

}  // namespace

VllmService::VllmService(Door& door)
    : RpcService(*GenerateRequest::descriptor()->file()->FindServiceByName("VllmEngine"), door),
      services_(door.services()),
      rate_time_(services_.clock.now()) {
  bind_generate();
  bind_descriptions();
  bind_tokenizer();
  refuse("Embed", "the model generates text");
  refuse("SubscribeKvEvents", "events of the cache are not published; route by GetLoads");
  refuse("FlushCache", "the cache is dropped by a restart only");
  for (const char* method : {"StartProfile", "StopProfile"}) refuse(method, "there is no profiler inside");
}

void VllmService::bind_generate() {
  bind_stream("Generate", [this](const IncomingCall& incoming, const Bytes& bytes) {
    auto* call = new StreamCall(incoming);
    last_request_ = time_of_day();
    GenerateRequest request;
    const auto check = [&]() -> Result<CheckedRequest> {
      SLUICE_RETURN_IF_ERROR(parse_message(bytes, &request));
      return check_vllm(request, services_, door_.fresh_seed());
    };
    Result<CheckedRequest> result = check();  // fills `request`
    call->start(door_, std::move(result), request.stream() ? Delivery::kStream : Delivery::kWhole,
                [&](const CheckedRequest& checked) { return vllm_renderer(checked, request.stream()); });
    return call;
  });
  bind<AbortRequest>("Abort", [this](const IncomingCall& call, const AbortRequest& request) -> Result<AbortResponse> {
    for (const std::string& id : request.request_ids())
      if (!id.empty()) door_.abort(call, id);
    return AbortResponse();
  });
}

void VllmService::bind_descriptions() {
  bind<HealthCheckRequest>("HealthCheck", [this](const HealthCheckRequest&) -> Result<HealthCheckResponse> {
    HealthCheckResponse out;
    out.set_healthy(door_.ready());
    out.set_message(door_.ready() ? "ready" : "the server is starting or draining");
    return out;
  });
  bind<GetModelInfoRequest>(
      "GetModelInfo", [this](const GetModelInfoRequest&) -> Result<GetModelInfoResponse> { return describe_model(); });
  bind<GetServerInfoRequest>("GetServerInfo", [this](const GetServerInfoRequest&) -> Result<GetServerInfoResponse> {
    return describe_server();
  });
  bind<GetLoadsRequest>("GetLoads", [this](const GetLoadsRequest& request) -> Result<GetLoadsResponse> {
    if (request.dp_rank() != 0) return invalid_argument("dp_rank: must be 0, got {}", request.dp_rank());
    return loads();
  });
}

void VllmService::bind_tokenizer() {
  bind_stream("GetTokenizer", [this](const IncomingCall&, const Bytes&) {
    std::vector<grpc::ByteBuffer> chunks;
    const auto make = [&]() -> Status {
      if (!services_.tokenizer) return failed_precondition("the model \"{}\" has no tokenizer", services_.model.name);
      SLUICE_ASSIGN_OR_RETURN(const std::string archive, bundle_tokenizer(services_.model_directory));
      for (size_t begin = 0; begin < archive.size(); begin += kChunkBytes) {
        common::GetTokenizerChunk chunk;
        chunk.set_data(archive.substr(begin, kChunkBytes));
        if (begin + kChunkBytes >= archive.size()) chunk.set_sha256(hex(sha256(archive)));
        chunks.push_back(serialize_message(chunk));
      }
      return {};
    };
    const Status status = make();
    return new MessagesCall(std::move(chunks), status);
  });
}

GetModelInfoResponse VllmService::describe_model() const {
  const ModelInfo& model = services_.model;
  GetModelInfoResponse out;
  out.set_model_path(services_.model_directory);
  out.set_is_generation(true);
  out.set_max_context_length(static_cast<uint32_t>(model.context_length));
  out.set_vocab_size(static_cast<uint32_t>(model.vocab_size));
  out.set_served_model_name(model.name);
  if (services_.tokenizer) out.set_tokenizer_path(services_.model_directory);
  out.set_model_type(model.architecture);
  for (const std::string& name : architectures_of(services_.model_directory)) out.add_architectures(name);
  out.mutable_eos_token_ids()->Assign(model.eos_token_ids.begin(), model.eos_token_ids.end());
  out.set_bos_token_id(model.bos_token_id.value_or(0));
  out.set_max_req_input_len(model.context_length - 1);
  out.set_default_sampling_params_json(default_sampling_json(model.default_sampling));
  return out;
}

GetServerInfoResponse VllmService::describe_server() const {
  GetServerInfoResponse out;
  out.set_active_requests(static_cast<uint32_t>(services_.frontend.num_open()));
  out.set_last_receive_timestamp(last_request_);
  out.set_uptime_seconds(seconds(door_.uptime()));
  out.set_server_type("vllm-grpc");
  out.set_data_parallel_size(1);
  out.set_block_size(kPageTokens);
  out.set_model_dtype(services_.model.weights);
  if (services_.report) out.set_max_num_seqs(services_.report().batch_sequences_limit);
  return out;
}

GetLoadsResponse VllmService::loads() {
  GetLoadsResponse out;
  out.set_timestamp(fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))));
  out.set_version(services_.version);
  out.set_dp_rank_count(1);
  SchedulerLoad& load = *out.add_loads();
  const RequestQueue::Load waiting = services_.queue.load();
  load.set_num_waiting_reqs(static_cast<int32_t>(waiting.waiting_requests));
  load.set_num_waiting_uncached_tokens(static_cast<int32_t>(waiting.waiting_tokens));
  load.set_num_total_reqs(static_cast<int32_t>(services_.frontend.num_open()));
  if (!services_.report) return out;
  const LoopReport report = services_.report();
  load.set_num_running_reqs(report.running_sequences);
  load.set_num_used_tokens(report.cache_pages_used * kPageTokens);
  load.set_max_total_num_tokens(report.cache_pages_total * kPageTokens);
  if (report.cache_pages_total > 0)
    load.set_token_usage(static_cast<double>(report.cache_pages_used) / report.cache_pages_total);
  load.set_gen_throughput(throughput(report.generated_tokens));
  if (report.prompt_tokens > 0)
    load.set_cache_hit_rate(static_cast<double>(report.cached_prompt_tokens) /
                            static_cast<double>(report.prompt_tokens));
  load.set_max_running_requests(report.batch_sequences_limit);
  if (report.batch_sequences_limit > 0)
    load.set_utilization(static_cast<double>(report.running_sequences) / report.batch_sequences_limit);
  return out;
}

double VllmService::throughput(int64_t generated_tokens) {
  std::lock_guard lock(rate_mutex_);
  const TimePoint now = services_.clock.now();
  if (now - rate_time_ >= kRateWindow) {
    rate_ = static_cast<double>(generated_tokens - rate_tokens_) / seconds(now - rate_time_);
    rate_time_ = now;
    rate_tokens_ = generated_tokens;
  }
  return rate_;
}

}  // namespace sluice
