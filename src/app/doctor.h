// What `sluice doctor` finds. The checks of the machine are in doctor_machine.cc, those of the server's options in
// doctor_options.cc; each gives at least one Finding and stops at nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/options.h"

namespace sluice {

enum class Verdict : uint8_t {
  kOk,
  kWarn,  // it will run, but slower or less safely than it could
  kFail,  // it will not run, or not for long
};

const char* name(Verdict verdict);  // "ok", "warn", "fail"

struct Finding {
  std::string topic;  // "memory"
  Verdict verdict = Verdict::kOk;
  std::string found;   // with numbers and units
  std::string advice;  // what to do; empty where there is nothing to do
};

// Takes about two seconds: the machine's speed is measured.
std::vector<Finding> examine(const Options& options);

void examine_machine(const Options& options, std::vector<Finding>& out);
void examine_options(const Options& options, std::vector<Finding>& out);

}  // namespace sluice
