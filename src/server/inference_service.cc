#include "server/inference_service.h"

#include <chrono>
#include <random>
#include <utility>

#include "server/answer_proto.h"
#include "server/calls.h"
#include "server/wire.h"

namespace sluice {

namespace {

constexpr const char* kRequestIdKey = "x-request-id";
constexpr const char* kCorrelationIdKey = "x-correlation-id";
// The key that gRPC's own retry policy reads; milliseconds.
constexpr const char* kRetryKey = "grpc-retry-pushback-ms";
// Refused clients come back within [500, 1500) ms, spread evenly, so that they do not come back together. A second is
// the order of a queue place's time: 1,024 places, each some seconds of work in a batch of hundreds.
constexpr uint64_t kRetryMinMs = 500, kRetrySpreadMs = 1000;

std::optional<std::string> metadata(const grpc::CallbackServerContext& context, const char* key) {
  const auto place = context.client_metadata().find(key);
  if (place == context.client_metadata().end()) return std::nullopt;
  return std::string(place->second.data(), place->second.size());
}

void echo_metadata(grpc::CallbackServerContext* context) {
  for (const char* key : {kRequestIdKey, kCorrelationIdKey})
    if (const auto value = metadata(*context, key)) context->AddInitialMetadata(key, *value);
}

// A call that is answered at once.
template <typename RequestMessage, typename Answer>
grpc::ServerUnaryReactor* answer_now(grpc::CallbackServerContext* context, const grpc::ByteBuffer& bytes,
                                     grpc::ByteBuffer* response, const Answer& answer) {
  echo_metadata(context);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  RequestMessage request;
  Status status = parse_message(bytes, &request);
  if (status.ok()) {
    auto result = answer(request);
    status = result.status();
    if (status.ok()) *response = serialize_message(*result);
  }
  reactor->Finish(to_grpc(status));
  return reactor;
}

Result<CheckedRequest> check_request(const v1::GenerateRequest& request, const Services& services, uint64_t seed) {
  return check_generate(request, services, seed);
}
Result<CheckedRequest> check_request(const v1::ChatRequest& request, const Services& services, uint64_t seed) {
  return check_chat(request, services, seed);
}

uint64_t random_start() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

InferenceService::InferenceService(Services services, int64_t max_message_bytes)
    : services_(std::move(services)),
      max_message_bytes_(max_message_bytes),
      started_(services_.clock.now()),
      random_state_(random_start()) {}

// SplitMix64: a counter through a mixing function, so that threads share it with one atomic addition.
uint64_t InferenceService::fresh_number() {
  uint64_t z = random_state_.fetch_add(0x9E3779B97F4A7C15ull, std::memory_order_relaxed);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

Result<std::string> InferenceService::request_id_of(const Context& context, const std::string& named) {
  if (!named.empty()) return named;
  if (const auto id = metadata(context, kRequestIdKey); id && !id->empty()) {
    SLUICE_RETURN_IF_ERROR(check_request_id(kRequestIdKey, *id));
    return *id;
  }
  return fmt::format("{:016x}", fresh_number());
}

// The client's deadline is a time of day; the loop's clock only knows differences.
TimePoint InferenceService::deadline_of(const Context& context) const {
  const auto deadline = context.deadline();
  const auto now = std::chrono::system_clock::now();
  if (deadline - now > std::chrono::hours(24 * 365)) return kNever;
  return services_.clock.now() + std::chrono::duration_cast<Duration>(deadline - now);
}

template <typename RequestMessage>
Result<CheckedRequest> InferenceService::check(const Context& context, const Bytes& bytes) {
  if (!ready_) return unavailable("the server is starting or draining");
  RequestMessage message;
  SLUICE_RETURN_IF_ERROR(parse_message(bytes, &message));
  // 63 bits, so that the seed in the answer is a plain positive number.
  SLUICE_ASSIGN_OR_RETURN(CheckedRequest checked, check_request(message, services_, fresh_number() >> 1));
  SLUICE_ASSIGN_OR_RETURN(checked.task.client_id, request_id_of(context, checked.task.client_id));
  checked.task.request.deadline = deadline_of(context);
  return checked;
}

template <typename RequestMessage, typename Call>
void InferenceService::start(Context* context, const Bytes& bytes, Delivery delivery, Call* call) {
  echo_metadata(context);
  Result<CheckedRequest> checked = check<RequestMessage>(*context, bytes);
  if (!checked.ok()) return call->refuse(checked.status());
  call->set_head(head_of(*checked, checked->task.client_id, services_.model));
  checked->task.delivery = delivery;
  Result<std::shared_ptr<AnswerStream>> stream = services_.frontend.submit(std::move(checked->task), *call);
  if (stream.ok()) return call->begin(std::move(*stream));
  if (stream.status().code() == StatusCode::kResourceExhausted)
    context->AddTrailingMetadata(kRetryKey, fmt::format("{}", kRetryMinMs + fresh_number() % kRetrySpreadMs));
  call->refuse(stream.status());
}

grpc::ServerUnaryReactor* InferenceService::Generate(Context* context, const Bytes* request, Bytes* response) {
  auto* call = new UnaryCall(context, services_.tokenizer, response);
  start<v1::GenerateRequest>(context, *request, Delivery::kWhole, call);
  return call;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::GenerateStream(Context* context, const Bytes* request) {
  auto* call = new StreamCall(context, services_.tokenizer);
  start<v1::GenerateRequest>(context, *request, Delivery::kStream, call);
  return call;
}

grpc::ServerUnaryReactor* InferenceService::Chat(Context* context, const Bytes* request, Bytes* response) {
  auto* call = new UnaryCall(context, services_.tokenizer, response);
  start<v1::ChatRequest>(context, *request, Delivery::kWhole, call);
  return call;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::ChatStream(Context* context, const Bytes* request) {
  auto* call = new StreamCall(context, services_.tokenizer);
  start<v1::ChatRequest>(context, *request, Delivery::kStream, call);
  return call;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(Context* context, const Bytes* request, Bytes* response) {
  const auto answer = [this](const v1::TokenizeRequest& message) -> Result<v1::TokenizeResponse> {
    SLUICE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, check_tokenize(message, services_));
    v1::TokenizeResponse out;
    out.mutable_token_ids()->Assign(ids.begin(), ids.end());
    return out;
  };
  return answer_now<v1::TokenizeRequest>(context, *request, response, answer);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(Context* context, const Bytes* request, Bytes* response) {
  const auto answer = [this](const v1::DetokenizeRequest& message) -> Result<v1::DetokenizeResponse> {
    SLUICE_ASSIGN_OR_RETURN(std::string text, check_detokenize(message, services_));
    v1::DetokenizeResponse out;
    out.set_text(std::move(text));
    return out;
  };
  return answer_now<v1::DetokenizeRequest>(context, *request, response, answer);
}

grpc::ServerUnaryReactor* InferenceService::GetModel(Context* context, const Bytes* request, Bytes* response) {
  const auto answer = [this](const v1::GetModelRequest& message) -> Result<v1::Model> {
    SLUICE_RETURN_IF_ERROR(check_model(message.model(), services_.model));
    return model_to_proto(services_);
  };
  return answer_now<v1::GetModelRequest>(context, *request, response, answer);
}

grpc::ServerUnaryReactor* InferenceService::GetServer(Context* context, const Bytes* request, Bytes* response) {
  const auto answer = [this](const v1::GetServerRequest&) -> Result<v1::Server> { return describe_server(); };
  return answer_now<v1::GetServerRequest>(context, *request, response, answer);
}

grpc::ServerUnaryReactor* InferenceService::Abort(Context* context, const Bytes* request, Bytes* response) {
  const auto answer = [this](const v1::AbortRequest& message) -> Result<v1::AbortResponse> {
    if (message.request_id().empty()) return invalid_argument("request_id: must not be empty");
    v1::AbortResponse out;
    out.set_num_aborted(services_.frontend.abort(message.request_id()));
    return out;
  };
  return answer_now<v1::AbortRequest>(context, *request, response, answer);
}

v1::Server InferenceService::describe_server() const {
  v1::Server server;
  server.set_version(services_.version);
  server.set_model(services_.model.name);
  server.set_device(services_.model.device);
  server.set_ready(ready_);
  server.set_uptime_seconds(seconds(services_.clock.now() - started_));
  v1::Limits& limits = *server.mutable_limits();
  limits.set_max_message_bytes(max_message_bytes_);
  limits.set_max_choices(kMaxChoices);
  limits.set_max_stop_strings(kMaxStopStrings);
  limits.set_max_stop_string_bytes(kMaxStopStringBytes);
  limits.set_max_stop_token_ids(kMaxStopTokenIds);
  limits.set_max_logprobs(kMaxLogprobs);
  const RequestQueue::Load waiting = services_.queue.load();
  v1::Load& load = *server.mutable_load();
  load.set_waiting_requests(waiting.waiting_requests);
  load.set_waiting_tokens(waiting.waiting_tokens);
  load.set_open_answers(services_.frontend.num_open());
  if (!services_.report) return server;
  const LoopReport report = services_.report();
  load.set_running_sequences(report.running_sequences);
  load.set_cache_pages_total(report.cache_pages_total);
  load.set_cache_pages_used(report.cache_pages_used);
  load.set_cache_pages_cached(report.cache_pages_cached);
  load.set_prompt_tokens(report.prompt_tokens);
  load.set_cached_prompt_tokens(report.cached_prompt_tokens);
  load.set_generated_tokens(report.generated_tokens);
  load.set_preemptions(report.preemptions);
  load.set_busy_seconds(report.busy_seconds);
  for (const auto& [item, bytes] : report.memory_bytes) {
    v1::MemoryItem& entry = *server.add_memory();
    entry.set_name(item);
    entry.set_bytes(bytes);
  }
  return server;
}

}  // namespace sluice
