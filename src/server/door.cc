#include "server/door.h"

#include <chrono>
#include <utility>

#include "server/validate.h"

namespace sluice {

namespace {

constexpr const char* kAuthorizationKey = "authorization";
constexpr const char* kRequestIdKey = "x-request-id";
constexpr const char* kCorrelationIdKey = "x-correlation-id";
constexpr const char* kTraceParentKey = "traceparent";
// The key that gRPC's own retry policy reads; milliseconds.
constexpr const char* kRetryKey = "grpc-retry-pushback-ms";

// The client's deadline is a time of day; the loop's clock only knows differences.
TimePoint deadline_of(const grpc::CallbackServerContext& context, const Clock& clock) {
  const auto deadline = context.deadline();
  const auto now = std::chrono::system_clock::now();
  if (deadline - now > std::chrono::hours(24 * 365)) return kNever;
  return clock.now() + std::chrono::duration_cast<Duration>(deadline - now);
}

}  // namespace

std::string metadata(const grpc::CallbackServerContext& context, const char* key) {
  const auto place = context.client_metadata().find(key);
  if (place == context.client_metadata().end()) return {};
  return {place->second.data(), place->second.size()};
}

Door::Door(const Services& services, const Authenticator* authenticator)
    : services_(services), authenticator_(authenticator), started_(services_.clock.now()) {}

Result<IncomingCall> Door::enter(grpc::CallbackServerContext* context) {
  for (const char* key : {kRequestIdKey, kCorrelationIdKey})
    if (const std::string value = metadata(*context, key); !value.empty()) context->AddInitialMetadata(key, value);
  IncomingCall call{context, nullptr};
  if (!authenticator_) return call;
  auto principal = authenticator_->authenticate(metadata(*context, kAuthorizationKey));
  if (!principal.ok()) {
    services_.frontend.metrics().rejected(Rejection::kUnauthenticated);
    return principal.status();
  }
  call.principal = std::move(*principal);
  return call;
}

Status Door::admit(const IncomingCall& call, GenerationTask* task) {
  if (!ready_) return unavailable("the server is starting or draining");
  if (task->client_id.empty()) {
    task->client_id = metadata(*call.context, kRequestIdKey);
    SLUICE_RETURN_IF_ERROR(check_request_id(kRequestIdKey, task->client_id));
  }
  if (task->client_id.empty()) task->client_id = fmt::format("{:016x}", numbers_.next());
  task->trace = parse_trace_parent(metadata(*call.context, kTraceParentKey));
  task->request.deadline = std::min(task->request.deadline, deadline_of(*call.context, services_.clock));
  return {};
}

Result<std::shared_ptr<AnswerStream>> Door::submit(const IncomingCall& call, GenerationTask task,
                                                   AnswerReader& reader) {
  Duration wait{};
  Result<std::shared_ptr<AnswerStream>> stream =
      submit_as(call.principal.get(), services_.frontend, std::move(task), reader, &wait);
  if (stream.status().code() == StatusCode::kResourceExhausted)
    call.context->AddTrailingMetadata(kRetryKey, fmt::format("{}", numbers_.next_retry_ms(wait)));
  return stream;
}

int32_t Door::abort(const IncomingCall& call, const std::string& client_id) {
  return services_.frontend.abort(call.principal ? call.principal->scoped(client_id) : client_id);
}

}  // namespace sluice
