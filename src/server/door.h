// Where every call of every gRPC service enters, and the one way from there to the Frontend. Owns the readiness flag
// and the fresh seeds; knows no service's messages. Called by gRPC's threads.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "sluice/status.h"

#include "server/answer_stream.h"
#include "server/auth.h"
#include "server/fresh_numbers.h"
#include "server/generation.h"
#include "server/services.h"

namespace sluice {

// A call that was let in.
struct IncomingCall {
  grpc::CallbackServerContext* context = nullptr;
  std::shared_ptr<const Principal> principal;  // null: nobody is asked who he is
};

class Door {
 public:
  // `authenticator` outlives the door; null lets everybody in.
  Door(const Services& services, const Authenticator* authenticator);

  const Services& services() const { return services_; }

  // While not ready, answers are refused with UNAVAILABLE. Any thread.
  void set_ready(bool ready) { ready_ = ready; }
  bool ready() const { return ready_; }
  Duration uptime() const { return services_.clock.now() - started_; }

  // The first thing that happens to a call, whatever its service. UNAUTHENTICATED without a token that is known. Sends
  // x-request-id and x-correlation-id back.
  Result<IncomingCall> enter(grpc::CallbackServerContext* context);

  // Completes a validated task with what the call itself says: its name where the message gives none, its deadline.
  // UNAVAILABLE while not ready.
  Status admit(const IncomingCall& call, GenerationTask* task);
  // Frontend::submit() in the client's name, with the retry hint in the call's trailing metadata where the queue is
  // full or the client is at a limit of its own.
  Result<std::shared_ptr<AnswerStream>> submit(const IncomingCall& call, GenerationTask task, AnswerReader& reader);

  // Ends the answers with this name, of the call's own tenant; how many there were.
  int32_t abort(const IncomingCall& call, const std::string& client_id);

  // 63 bits, so that the seed in an answer is a plain positive number.
  uint64_t fresh_seed() { return numbers_.next_seed(); }

 private:
  const Services services_;
  const Authenticator* const authenticator_;
  const TimePoint started_;
  std::atomic<bool> ready_{false};
  FreshNumbers numbers_;
};

// The value of one metadata key of the call; empty where it has none.
std::string metadata(const grpc::CallbackServerContext& context, const char* key);

}  // namespace sluice
