// The binary `sluice`: chooses a subcommand and turns its Status into an exit code. The only composition root of the
// tree is this folder.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "sluice/log.h"

#include "app/commands.h"
#include "app/rank_processes.h"
#include "base/structured_log.h"

namespace sluice {
namespace {

struct Subcommand {
  const char* name;
  const char* help;
  Action (*add)(CLI::App&);
};

constexpr Subcommand kSubcommands[] = {
#ifdef SLUICE_SERVER
    {"serve", "serve a model over gRPC and HTTP", add_serve},
    {"client", "send one prompt to a server and print the answer as it comes", add_client},
    {"doctor", "check this machine and a server's options, and say what to do", add_doctor},
    {"token", "make a bearer token for a client of a server", add_token},
#endif
    {"generate", "continue a prompt, without a server", add_generate},
    {"chat", "talk to a model", add_chat},
    {"perplexity", "measure how well a model predicts a text", add_perplexity},
    {"tokenize", "turn texts into token ids and back", add_tokenize},
    {"quantize", "write a model in 4 or 8 bits, in the layout that other engines read", add_quantize},
    {"inspect", "print what a model is and costs, without loading it", add_inspect},
    {"bench", "measure the engine and the serving core", add_bench},
};

int run(int argc, char** argv) {
  CLI::App app{"Sluice: a Mixture-of-Experts inference server", "sluice"};
  app.set_version_flag("--version", SLUICE_VERSION);
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return fmt::format("sluice: {}\nrun `sluice --help` or `sluice SUBCOMMAND --help`\n", error.what());
  });
  std::vector<std::pair<CLI::App*, Action>> actions;
  for (const Subcommand& subcommand : kSubcommands) {
    CLI::App* child = app.add_subcommand(subcommand.name, subcommand.help);
    actions.emplace_back(child, subcommand.add(*child));
  }
  CLI11_PARSE(app, argc, argv);
  set_up_logging("info");
  for (const auto& [child, action] : actions) {
    if (!child->parsed()) continue;
    const Status status = action();
    if (status.ok()) return 0;
    if (logs_are_json()) {
      log_error("sluice {}: {}", child->get_name(), status.to_string());
    } else {
      std::fprintf(stderr, "sluice %s: %s\n", child->get_name().c_str(), status.to_string().c_str());
    }
    const bool is_child = std::getenv("SLUICE_RANK_LISTENER") != nullptr;  // of run_rank_processes()
    return is_child && status.code() == StatusCode::kUnavailable ? kExitGroupBroken : 1;
  }
  return 1;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) { return sluice::run(argc, argv); }
