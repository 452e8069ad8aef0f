// Who may ask, and how much at once: bearer tokens from a file that holds only their SHA-256. Knows neither gRPC nor
// HTTP: a front door hands in the value of its `authorization` header and gets a Principal, which admits that client's
// tasks. Any thread; reload() changes what later calls see.
//
// SHA-256 without salt or stretching is enough because tokens are random (`sluice token` draws 256 bits): there is no
// dictionary to try. Passwords do not belong here.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/clock.h"
#include "sluice/status.h"

#include "server/digest.h"
#include "server/frontend.h"
#include "server/generation.h"

namespace sluice {

// What one token of the file grants.
struct TokenGrant {
  std::string name;            // of the client, for logs and limits; unique in the file
  Sha256 digest{};             // of the token
  std::string tenant;          // clients of different tenants share no cached work and abort no answers of each other
  int32_t priority = 0;        // of its requests; a request may step back behind it, not before it
  int64_t max_concurrent = 0;  // answers open at once; 0: no limit
  int64_t max_prompt_tokens = 0;  // of all open answers together, its share of the queue; 0: no limit
  int64_t tokens_per_minute = 0;  // prompts and answers; 0: no limit
};

// {"tokens": [{"name": ..., "sha256": ..., "tenant": ..., "priority": ..., "max_concurrent": ...,
// "max_prompt_tokens": ..., "tokens_per_minute": ...}, ...]}; all but the first two may be left out, a tenant is then
// the name. Comments are allowed. INVALID_ARGUMENT names `file` and key, FAILED_PRECONDITION an unknown key.
Result<std::vector<TokenGrant>> parse_token_file(std::string_view json, const std::string& file);

// What a client's open answers hold, beside what they may; lives on through reloads, which change the limits also for
// calls that are open.
struct ClientUsage {
  explicit ClientUsage(const Clock& clock) : budget(clock) {}

  std::mutex mutex;
  int64_t num_open = 0;
  int64_t prompt_tokens = 0;
  int64_t max_concurrent = 0;     // as in the TokenGrant
  int64_t max_prompt_tokens = 0;  // the same
  TokenBudget budget;             // has a lock of its own
};

// A client that has proved who it is.
class Principal {
 public:
  // `revoked` becomes true when a reload no longer finds the token; it is one for all principals of one token.
  Principal(TokenGrant grant, std::shared_ptr<ClientUsage> usage, std::shared_ptr<std::atomic<bool>> revoked);

  const TokenGrant& grant() const { return grant_; }
  const std::shared_ptr<std::atomic<bool>>& revoked() const { return revoked_; }
  // Puts the client's name, the tenant's salt, the client's priority and the lease that counts it into the task.
  // RESOURCE_EXHAUSTED when the client is at one of its limits, and where that passes with time alone, `retry_after`
  // says when; UNAUTHENTICATED when its token was taken back while the call was open.
  Status admit(GenerationTask* task, Duration* retry_after = nullptr) const;
  // The client's name for a request, kept apart from the same name of other tenants.
  std::string scoped(const std::string& client_id) const { return grant_.tenant + "\n" + client_id; }

 private:
  const TokenGrant grant_;
  const std::shared_ptr<ClientUsage> usage_;
  const std::shared_ptr<std::atomic<bool>> revoked_;
};

// Frontend::submit() in the client's name: its scope, its limits. RESOURCE_EXHAUSTED when the queue is full or the
// client at a limit of its own; `retry_after` as above, else it stays. `principal` may be null: nobody is asked who he
// is.
Result<std::shared_ptr<AnswerStream>> submit_as(const Principal* principal, Frontend& frontend, GenerationTask task,
                                                AnswerReader& reader, Duration* retry_after);

class Authenticator {
 public:
  // `clock`, if given, outlives it.
  static Result<std::unique_ptr<Authenticator>> load(const std::string& file, const Clock* clock = nullptr);
  // Reads the file again; if it is bad, the tokens of before stay. Open answers of tokens that are gone are then marked
  // as revoked; Frontend::end_revoked() ends them.
  Status reload();

  // `authorization` as the client sent it, empty if it sent none. UNAUTHENTICATED unless it is "Bearer " and a token of
  // the file. Its time does not depend on which token is right or how much of it.
  Result<std::shared_ptr<const Principal>> authenticate(std::string_view authorization) const;

  size_t num_tokens() const;

 private:
  using Principals = std::vector<std::shared_ptr<const Principal>>;

  Authenticator(std::string file, const Clock* clock) : file_(std::move(file)), clock_(clock) {}
  std::shared_ptr<const Principals> principals() const;

  const std::string file_;
  const Clock* const clock_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Principals> principals_ = std::make_shared<Principals>();
  std::map<std::string, std::shared_ptr<ClientUsage>> usages_;  // by name; of clients that are gone too
};

}  // namespace sluice
