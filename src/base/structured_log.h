// Lines with named values beside their message, and the choice between text for people and JSON for machines: with JSON
// every line on stderr is one object {"time", "level", "message", ...}. Beside include/sluice/log.h, which most callers
// need alone. Any thread; never blocks longer than the write to stderr does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sluice {

// In the order in which they are written.
using LogFields = std::vector<std::pair<std::string_view, std::variant<std::string, int64_t, double>>>;

// After set_up_logging(), before threads start.
void use_json_logs();
bool logs_are_json();
// As set_up_logging()'s, at any time.
void set_log_level(const std::string& level);

// At info: `message key=value key="two words"`, or the same as members of the object.
void log_event(std::string_view message, const LogFields& fields);

}  // namespace sluice
