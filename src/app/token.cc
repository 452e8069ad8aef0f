// `sluice token`: draws a bearer token for a client and prints it once, with the entry for the server's token file,
// which holds its hash alone.
#include <openssl/rand.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "server/digest.h"

namespace sluice {

namespace {

struct TokenCommand {
  std::string name, tenant;
  int32_t priority = 0;
  int64_t max_concurrent = 0, max_prompt_tokens = 0, tokens_per_minute = 0;

  Status run() const;
};

Status TokenCommand::run() const {
  std::array<uint8_t, 32> random{};  // 256 bits: nobody guesses them, so a plain hash keeps them
  if (RAND_bytes(random.data(), static_cast<int>(random.size())) != 1)
    return internal_error("the machine gives no random numbers");
  const std::string token = fmt::format("sluice-{:02x}", fmt::join(random, ""));
  nlohmann::ordered_json entry = {{"name", name}, {"sha256", hex(sha256(token))}};
  if (!tenant.empty()) entry["tenant"] = tenant;
  if (priority != 0) entry["priority"] = priority;
  if (max_concurrent > 0) entry["max_concurrent"] = max_concurrent;
  if (max_prompt_tokens > 0) entry["max_prompt_tokens"] = max_prompt_tokens;
  if (tokens_per_minute > 0) entry["tokens_per_minute"] = tokens_per_minute;
  std::printf("%s\n", token.c_str());
  std::fprintf(stderr,
               "the client's token is printed once; the entry for \"tokens\" of the server's auth.tokens file:\n");
  std::fprintf(stderr, "%s\n", entry.dump().c_str());
  return {};
}

}  // namespace

Action add_token(CLI::App& app) {
  auto command = std::make_shared<TokenCommand>();
  app.add_option("--name", command->name, "the client's name, for logs and limits")->required();
  app.add_option("--tenant", command->tenant, "clients of one tenant share cached work; default: the name");
  app.add_option("--priority", command->priority, "of its requests; lower runs first");
  app.add_option("--max-concurrent", command->max_concurrent, "answers open at once; 0: no limit");
  app.add_option("--max-prompt-tokens", command->max_prompt_tokens, "of all open answers together; 0: no limit");
  app.add_option("--tokens-per-minute", command->tokens_per_minute, "of prompts and answers; 0: no limit");
  return [command] { return command->run(); };
}

}  // namespace sluice
