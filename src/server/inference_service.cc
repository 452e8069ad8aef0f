#include "server/inference_service.h"

#include <utility>

#include "server/answer_proto.h"
#include "server/calls.h"

namespace sluice {

namespace {

Result<CheckedRequest> check_request(const v1::GenerateRequest& request, const Services& services, uint64_t seed) {
  return check_generate(request, services, seed);
}
Result<CheckedRequest> check_request(const v1::ChatRequest& request, const Services& services, uint64_t seed) {
  return check_chat(request, services, seed);
}

template <typename RequestMessage>
Result<CheckedRequest> check(const grpc::ByteBuffer& bytes, Door& door) {
  if (!door.ready()) return unavailable("the server is starting or draining");
  RequestMessage message;
  SLUICE_RETURN_IF_ERROR(parse_message(bytes, &message));
  return check_request(message, door.services(), door.fresh_seed());
}

}  // namespace

InferenceService::InferenceService(Door& door, int64_t max_message_bytes)
    : RpcService(*v1::GenerateRequest::descriptor()->file()->FindServiceByName("Inference"), door),
      services_(door.services()),
      max_message_bytes_(max_message_bytes) {
  bind_answers<v1::GenerateRequest>("Generate");
  bind_answers<v1::ChatRequest>("Chat");
  bind_tokens();
  bind<v1::GetModelRequest>("GetModel", [this](const v1::GetModelRequest& request) -> Result<v1::Model> {
    SLUICE_RETURN_IF_ERROR(check_model(request.model(), services_.model));
    return model_to_proto(services_);
  });
  bind<v1::GetServerRequest>("GetServer",
                             [this](const v1::GetServerRequest&) -> Result<v1::Server> { return describe_server(); });
  bind<v1::AbortRequest>(
      "Abort", [this](const IncomingCall& call, const v1::AbortRequest& request) -> Result<v1::AbortResponse> {
        if (request.request_id().empty()) return invalid_argument("request_id: must not be empty");
        v1::AbortResponse out;
        out.set_num_aborted(door_.abort(call, request.request_id()));
        return out;
      });
}

// `method`, which answers whole, and `method`Stream.
template <typename RequestMessage>
void InferenceService::bind_answers(const std::string& method) {
  const MakeRenderer renderer = [this](const CheckedRequest& checked) { return native_renderer(checked, services_); };
  bind_unary(method, [this, renderer](const IncomingCall& incoming, const Bytes& bytes, Bytes* response) {
    auto* call = new UnaryCall(incoming, response);
    call->start(door_, check<RequestMessage>(bytes, door_), Delivery::kWhole, renderer);
    return call;
  });
  bind_stream(method + "Stream", [this, renderer](const IncomingCall& incoming, const Bytes& bytes) {
    auto* call = new StreamCall(incoming);
    call->start(door_, check<RequestMessage>(bytes, door_), Delivery::kStream, renderer);
    return call;
  });
}

void InferenceService::bind_tokens() {
  bind<v1::TokenizeRequest>("Tokenize", [this](const v1::TokenizeRequest& request) -> Result<v1::TokenizeResponse> {
    SLUICE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, check_tokenize(request, services_));
    v1::TokenizeResponse out;
    out.mutable_token_ids()->Assign(ids.begin(), ids.end());
    return out;
  });
  bind<v1::DetokenizeRequest>("Detokenize",
                              [this](const v1::DetokenizeRequest& request) -> Result<v1::DetokenizeResponse> {
                                SLUICE_ASSIGN_OR_RETURN(std::string text, check_detokenize(request, services_));
                                v1::DetokenizeResponse out;
                                out.set_text(std::move(text));
                                return out;
                              });
}

v1::Server InferenceService::describe_server() const {
  v1::Server server;
  server.set_version(services_.version);
  server.set_model(services_.model.name);
  server.set_device(services_.model.device);
  server.set_ready(door_.ready());
  server.set_uptime_seconds(seconds(door_.uptime()));
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
