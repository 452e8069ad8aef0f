#include "app/bench/workload.h"

#include <algorithm>

namespace sluice {

namespace {

class Source {
 public:
  explicit Source(const WorkloadOptions& options) : options_(options), random_(options.seed) {
    for (int32_t i = 0; i < options.prefixes; ++i) prefixes_.push_back(tokens(options.prefix_tokens));
  }

  Turn turn() {
    return {.tokens = tokens(options_.prompt.draw(random_)), .output_tokens = options_.output.draw(random_)};
  }

  Turn turn_behind_prefix() {
    Turn result = turn();
    const std::vector<TokenId>& prefix = prefixes_[random_() % prefixes_.size()];
    result.tokens.insert(result.tokens.begin(), prefix.begin(), prefix.end());
    return result;
  }

 private:
  std::vector<TokenId> tokens(int32_t count) {
    std::vector<TokenId> result(static_cast<size_t>(count));
    for (TokenId& token : result) token = static_cast<TokenId>(random_() % static_cast<uint64_t>(options_.vocab_size));
    return result;
  }

  const WorkloadOptions& options_;
  std::mt19937_64 random_;
  std::vector<std::vector<TokenId>> prefixes_;
};

}  // namespace

int64_t Session::num_tokens() const {
  int64_t count = 0;
  for (const Turn& turn : turns) count += static_cast<int64_t>(turn.tokens.size()) + turn.output_tokens;
  return count;
}

Result<std::vector<Session>> make_workload(const std::string& kind, const WorkloadOptions& options) {
  if (kind != "mixed" && kind != "shared-prefix" && kind != "chat")
    return invalid_argument("workload: expected mixed, shared-prefix, chat or trace:FILE, found '{}'", kind);
  Source source(options);
  std::vector<Session> sessions;
  for (int32_t made = 0; made < options.requests;) {
    Session session;
    const int32_t turns = kind == "chat" ? std::min(options.turns, options.requests - made) : 1;
    for (int32_t i = 0; i < turns; ++i)
      session.turns.push_back(kind == "shared-prefix" ? source.turn_behind_prefix() : source.turn());
    made += turns;
    sessions.push_back(std::move(session));
  }
  return sessions;
}

}  // namespace sluice
