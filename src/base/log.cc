#include "sluice/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <string_view>

namespace sluice {

bool set_up_logging(const char* level) {
  const std::string_view text = level;
  const spdlog::level::level_enum parsed = spdlog::level::from_str(std::string(text));
  // from_str answers `off` for whatever it does not know.
  if (parsed == spdlog::level::off && text != "off") return false;
  static const auto logger = spdlog::stderr_color_mt("sluice");
  spdlog::set_default_logger(logger);
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  spdlog::set_level(parsed);
  return true;
}

}  // namespace sluice
