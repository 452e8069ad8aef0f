// `sluice doctor`: looks at the machine and at the options of a server that is to run on it, and says of each thing
// whether it is well, and if not, what to do. Loads no model; the folders that the server would make are made.
#include "app/doctor.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "sluice/log.h"

#include "app/commands.h"

namespace sluice {

namespace {

struct DoctorCommand {
  OptionFlags options;
  bool json = false;

  Status run() const;
};

void print_lines(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    std::printf("%-4s  %-12s  %s\n", name(finding.verdict), finding.topic.c_str(), finding.found.c_str());
    if (!finding.advice.empty()) std::printf("%-4s  %-12s  -> %s\n", "", "", finding.advice.c_str());
  }
}

void print_json(const std::vector<Finding>& findings, bool healthy) {
  nlohmann::ordered_json checks = nlohmann::json::array();
  for (const Finding& finding : findings)
    checks.push_back({{"topic", finding.topic},
                      {"verdict", name(finding.verdict)},
                      {"found", finding.found},
                      {"advice", finding.advice}});
  const nlohmann::ordered_json object = {{"healthy", healthy}, {"checks", checks}};
  std::printf("%s\n", object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

Status DoctorCommand::run() const {
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  set_up_logging("error");  // what others warn of is a finding here
  const std::vector<Finding> findings = examine(resolved);
  int num_failed = 0;
  for (const Finding& finding : findings) num_failed += finding.verdict == Verdict::kFail;
  if (json) {
    print_json(findings, num_failed == 0);
  } else {
    print_lines(findings);
  }
  std::fflush(stdout);
  if (num_failed == 0) return {};
  return failed_precondition("{} of {} checks failed; `sluice serve` with these options would not do well", num_failed,
                             findings.size());
}

}  // namespace

const char* name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarn:
      return "warn";
    case Verdict::kFail:
      return "fail";
  }
  return "?";
}

Action add_doctor(CLI::App& app) {
  auto command = std::make_shared<DoctorCommand>();
  command->options.add_to(app);
  app.add_flag("--json", command->json, "print one JSON object");
  return [command] { return command->run(); };
}

}  // namespace sluice
