#include "server/auth.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <utility>

#include "server/validate.h"
#include "tokenizer/json_field.h"

namespace sluice {

namespace {

constexpr int64_t kMaxLimit = int64_t{1} << 40;

Result<Sha256> read_digest(const JsonField& field) {
  SLUICE_ASSIGN_OR_RETURN(const std::string text, field.string());
  Sha256 digest;
  bool good = text.size() == 2 * digest.size();
  for (size_t i = 0; good && i < digest.size(); ++i) {
    const char* begin = text.data() + 2 * i;
    const auto [end, error] = std::from_chars(begin, begin + 2, digest[i], 16);
    good = error == std::errc{} && end == begin + 2;
  }
  // Not shown: it might be a token that was put here by mistake.
  if (!good) return invalid_argument("{}: expected the SHA-256 of a token, 64 hexadecimal digits", field.path());
  return digest;
}

// Names travel in logs and salts: printable ASCII without spaces, like request ids.
Result<std::string> read_name(const JsonField& field) {
  SLUICE_ASSIGN_OR_RETURN(const std::string name, field.string());
  if (name.empty()) return invalid_argument("{}: must not be empty", field.path());
  SLUICE_RETURN_IF_ERROR(check_request_id(field.path().c_str(), name));
  return name;
}

Result<int64_t> read_limit(const JsonField& field) {
  if (field.empty()) return int64_t{0};
  return field.integer(1, kMaxLimit);
}

Result<TokenGrant> read_grant(const JsonField& field) {
  SLUICE_RETURN_IF_ERROR(field.expect_object(
      {"name", "sha256", "tenant", "priority", "max_concurrent", "max_prompt_tokens", "tokens_per_minute"}));
  TokenGrant grant;
  SLUICE_ASSIGN_OR_RETURN(grant.name, read_name(field["name"]));
  SLUICE_ASSIGN_OR_RETURN(grant.digest, read_digest(field["sha256"]));
  grant.tenant = grant.name;
  if (!field["tenant"].empty()) {
    SLUICE_ASSIGN_OR_RETURN(grant.tenant, read_name(field["tenant"]));
  }
  if (!field["priority"].empty()) {
    SLUICE_ASSIGN_OR_RETURN(const int64_t priority, field["priority"].integer(-1000, 1001));
    grant.priority = static_cast<int32_t>(priority);
  }
  SLUICE_ASSIGN_OR_RETURN(grant.max_concurrent, read_limit(field["max_concurrent"]));
  SLUICE_ASSIGN_OR_RETURN(grant.max_prompt_tokens, read_limit(field["max_prompt_tokens"]));
  SLUICE_ASSIGN_OR_RETURN(grant.tokens_per_minute, read_limit(field["tokens_per_minute"]));
  return grant;
}

// A token may use what HTTP lets stand behind "Bearer "; the scheme is known in any case of letters.
std::string_view token_of(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i)
    if (std::tolower(static_cast<unsigned char>(authorization[i])) != kScheme[i]) return {};
  return authorization.substr(kScheme.size());
}

}  // namespace

Result<std::vector<TokenGrant>> parse_token_file(std::string_view text, const std::string& file) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false, true);  // comments are fine
  if (json.is_discarded()) return invalid_argument("{}: is not JSON", file);
  const JsonField root(&json, file);
  SLUICE_RETURN_IF_ERROR(root.expect_object({"tokens"}));
  const JsonField list = root["tokens"];
  SLUICE_RETURN_IF_ERROR(list.expect_array());
  std::vector<TokenGrant> grants;
  std::set<std::string> names;
  std::set<Sha256> digests;
  for (size_t i = 0; i < list.size(); ++i) {
    SLUICE_ASSIGN_OR_RETURN(TokenGrant grant, read_grant(list[i]));
    if (!names.insert(grant.name).second)
      return invalid_argument("{}: name: \"{}\" is there twice", list[i].path(), grant.name);
    if (!digests.insert(grant.digest).second)
      return invalid_argument("{}: sha256: is that of another entry too", list[i].path());
    grants.push_back(std::move(grant));
  }
  if (grants.empty()) return invalid_argument("{}: holds no token, so nobody could enter", list.path());
  return grants;
}

Principal::Principal(TokenGrant grant, std::shared_ptr<ClientUsage> usage, std::shared_ptr<std::atomic<bool>> revoked)
    : grant_(std::move(grant)), usage_(std::move(usage)), revoked_(std::move(revoked)) {}

Status Principal::admit(GenerationTask* task, Duration* retry_after) const {
  if (*revoked_) return Status(StatusCode::kUnauthenticated, "authorization: the token was taken back");
  const int64_t tokens = std::ssize(task->request.prompt);
  {
    std::lock_guard lock(usage_->mutex);
    const int64_t max_open = usage_->max_concurrent, max_tokens = usage_->max_prompt_tokens;
    if (max_open > 0 && usage_->num_open >= max_open)
      return resource_exhausted("{}: {} answers are open, its limit is {}", grant_.name, usage_->num_open, max_open);
    if (max_tokens > 0 && usage_->prompt_tokens + tokens > max_tokens)
      return resource_exhausted("{}: {} prompt tokens are open and {} more come, its limit is {}", grant_.name,
                                usage_->prompt_tokens, tokens, max_tokens);
    if (const Duration wait = usage_->budget.admit(tokens); wait > Duration{}) {
      if (retry_after) *retry_after = wait;
      return resource_exhausted("{}: its tokens of this minute are used up (limit {} a minute); more in {:.1f} s",
                                grant_.name, grant_.tokens_per_minute, seconds(wait));
    }
    ++usage_->num_open;
    usage_->prompt_tokens += tokens;
  }
  task->lease = std::shared_ptr<void>(nullptr, [usage = usage_, tokens](void*) {
    std::lock_guard lock(usage->mutex);
    --usage->num_open;
    usage->prompt_tokens -= tokens;
  });
  task->budget = std::shared_ptr<TokenBudget>(usage_, &usage_->budget);
  task->client = grant_.name;
  task->revoked = revoked_;
  Request& request = task->request;
  request.cache_salt = grant_.tenant + "\n" + request.cache_salt;
  const int64_t priority = int64_t{grant_.priority} + std::max(0, request.priority);
  request.priority = static_cast<int32_t>(std::min<int64_t>(priority, std::numeric_limits<int32_t>::max()));
  return {};
}

Result<std::shared_ptr<AnswerStream>> submit_as(const Principal* principal, Frontend& frontend, GenerationTask task,
                                                AnswerReader& reader, Duration* retry_after) {
  if (principal) {
    task.client_id = principal->scoped(task.client_id);
    Duration wait{};
    if (const Status refused = principal->admit(&task, &wait); !refused.ok()) {
      const bool by_limit = refused.code() == StatusCode::kResourceExhausted;
      frontend.metrics().rejected(!by_limit           ? Rejection::kUnauthenticated
                                  : wait > Duration{} ? Rejection::kRateLimit
                                                      : Rejection::kClientLimit);
      if (wait > Duration{}) *retry_after = wait;
      return refused;
    }
  }
  return frontend.submit(std::move(task), reader);
}

Result<std::unique_ptr<Authenticator>> Authenticator::load(const std::string& file, const Clock* clock) {
  static const SteadyClock steady;
  std::unique_ptr<Authenticator> out(new Authenticator(file, clock ? clock : &steady));
  SLUICE_RETURN_IF_ERROR(out->reload());
  return out;
}

Status Authenticator::reload() {
  std::ifstream in(file_, std::ios::binary);
  if (!in) return not_found("auth.tokens: {} cannot be read", file_);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  SLUICE_ASSIGN_OR_RETURN(std::vector<TokenGrant> grants, parse_token_file(text, file_));
  auto principals = std::make_shared<Principals>();
  std::lock_guard lock(mutex_);
  std::map<Sha256, std::shared_ptr<std::atomic<bool>>> gone;
  for (const auto& principal : *principals_) gone.emplace(principal->grant().digest, principal->revoked());
  for (TokenGrant& grant : grants) {
    std::shared_ptr<ClientUsage>& usage = usages_[grant.name];
    if (!usage) usage = std::make_shared<ClientUsage>(*clock_);
    {
      std::lock_guard usage_lock(usage->mutex);
      usage->max_concurrent = grant.max_concurrent;
      usage->max_prompt_tokens = grant.max_prompt_tokens;
      usage->budget.set_per_minute(grant.tokens_per_minute);
    }
    auto known = gone.extract(grant.digest);
    auto revoked = known ? std::move(known.mapped()) : std::make_shared<std::atomic<bool>>(false);
    principals->push_back(std::make_shared<Principal>(std::move(grant), usage, std::move(revoked)));
  }
  principals_ = std::move(principals);
  for (const auto& [digest, revoked] : gone) *revoked = true;
  return {};
}

std::shared_ptr<const Authenticator::Principals> Authenticator::principals() const {
  std::lock_guard lock(mutex_);
  return principals_;
}

size_t Authenticator::num_tokens() const { return principals()->size(); }

Result<std::shared_ptr<const Principal>> Authenticator::authenticate(std::string_view authorization) const {
  const std::string_view token = token_of(authorization);
  if (token.empty()) return Status(StatusCode::kUnauthenticated, "authorization: expected \"Bearer TOKEN\"");
  const Sha256 digest = sha256(token);
  std::shared_ptr<const Principal> found;
  const std::shared_ptr<const Principals> all = principals();  // held: a reload may let go of it meanwhile
  for (const auto& principal : *all)  // all of them, whichever is right
    if (CRYPTO_memcmp(principal->grant().digest.data(), digest.data(), digest.size()) == 0) found = principal;
  if (!found) return Status(StatusCode::kUnauthenticated, "authorization: the token is not known here");
  return found;
}

}  // namespace sluice
