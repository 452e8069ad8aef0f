// Logging behind one line: `log_info("loaded {} tensors", n);`. Goes to stderr through spdlog; stdout
// belongs to answers. No prompt text is ever logged at info or above.
#pragma once

#include <spdlog/spdlog.h>

namespace sluice {

template <typename... Args>
void log_debug(fmt::format_string<Args...> text, Args&&... args) {
  spdlog::debug(text, std::forward<Args>(args)...);
}
template <typename... Args>
void log_info(fmt::format_string<Args...> text, Args&&... args) {
  spdlog::info(text, std::forward<Args>(args)...);
}
template <typename... Args>
void log_warn(fmt::format_string<Args...> text, Args&&... args) {
  spdlog::warn(text, std::forward<Args>(args)...);
}
template <typename... Args>
void log_error(fmt::format_string<Args...> text, Args&&... args) {
  spdlog::error(text, std::forward<Args>(args)...);
}

// Level: "trace", "debug", "info", "warn", "error", "off". Sends everything to stderr.
// Returns false for an unknown level name.
bool set_up_logging(const char* level);

}  // namespace sluice
