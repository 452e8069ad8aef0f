#include "base/structured_log.h"

#include <fmt/chrono.h>
#include <spdlog/formatter.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <nlohmann/json.hpp>

namespace sluice {

namespace {

// Events come through a logger of their own on the same sink: by its name the formatter knows that the payload already
// is a row of members.
constexpr std::string_view kEventLogger = "sluice.event";

std::atomic<bool> json_logs{false};

std::string json_string(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& line, spdlog::memory_buf_t& out) override {
    const auto since_1970 = line.time.time_since_epoch();
    const auto second = std::chrono::floor<std::chrono::seconds>(since_1970);
    const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(since_1970 - second).count();
    const std::string_view payload(line.payload.data(), line.payload.size());
    const bool is_event = std::string_view(line.logger_name.data(), line.logger_name.size()) == kEventLogger;
    fmt::format_to(std::back_inserter(out), "{{\"time\":\"{:%Y-%m-%dT%H:%M:%S}.{:03}Z\",\"level\":\"{}\",{}}}\n",
                   fmt::gmtime(static_cast<std::time_t>(second.count())), milliseconds,
                   spdlog::level::to_string_view(line.level),
                   is_event ? std::string(payload) : "\"message\":" + json_string(payload));
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(); }
};

spdlog::logger& event_logger() {
  static const auto logger = [] {
    const auto& sinks = spdlog::default_logger()->sinks();
    return std::make_shared<spdlog::logger>(std::string(kEventLogger), sinks.begin(), sinks.end());
  }();
  logger->set_level(spdlog::get_level());
  return *logger;
}

std::string as_json(std::string_view message, const LogFields& fields) {
  std::string text = "\"message\":" + json_string(message);
  for (const auto& [key, value] : fields) {
    text += fmt::format(",{}:", json_string(key));
    if (const auto* words = std::get_if<std::string>(&value)) {
      text += json_string(*words);
    } else {
      std::visit([&](const auto& number) { text += nlohmann::json(number).dump(); }, value);
    }
  }
  return text;
}

std::string as_text(std::string_view message, const LogFields& fields) {
  std::string text(message);
  for (const auto& [key, value] : fields) {
    text += fmt::format(" {}=", key);
    if (const auto* words = std::get_if<std::string>(&value)) {
      const bool plain = !words->empty() && words->find_first_of(" =\"\\\n\t") == std::string::npos;
      text += plain ? *words : json_string(*words);
    } else if (const auto* real = std::get_if<double>(&value)) {
      text += fmt::format("{:.4g}", *real);
    } else {
      text += std::to_string(std::get<int64_t>(value));
    }
  }
  return text;
}

}  // namespace

void use_json_logs() {
  json_logs = true;
  spdlog::set_formatter(std::make_unique<JsonFormatter>());
}

bool logs_are_json() { return json_logs; }

void set_log_level(const std::string& level) { spdlog::set_level(spdlog::level::from_str(level)); }

void log_event(std::string_view message, const LogFields& fields) {
  spdlog::logger& logger = event_logger();
  if (!logger.should_log(spdlog::level::info)) return;
  const std::string line = json_logs ? as_json(message, fields) : as_text(message, fields);
  logger.log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace sluice
