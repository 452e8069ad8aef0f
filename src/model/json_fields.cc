#include "model/json_fields.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>

namespace sluice {

namespace {

// Deeper than any real file (a quantization_config reaches 4). The library builds and destroys deep values without
// recursion, but dump() recurses.
constexpr int kMaxNesting = 64;

constexpr size_t kMaxQuotedBytes = 80;

// Deepest nesting of brackets outside strings; right for valid JSON, and only a bound is needed for other text.
int nesting(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

std::string cut(std::string text) {
  if (text.size() > kMaxQuotedBytes) text = text.substr(0, kMaxQuotedBytes) + "...";
  return text;
}

std::string describe(const nlohmann::json* value) {
  if (value == nullptr) return "no such key";
  if (value->is_object()) return "an object";
  // ASCII only, so that a cut never splits a character.
  return cut(value->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

std::string describe(IntegerRange range) {
  if (range.min == 1) return "a positive integer";
  if (range.min == 0) return "a non-negative integer";
  return fmt::format("an integer >= {}", range.min);
}

}  // namespace

Result<std::string> read_small_file(const std::string& path, int64_t max_bytes) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return not_found("{}: no such file", path);
    return failed_precondition("{}: cannot be read: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) return failed_precondition("{}: expected a regular file, found something else", path);
  if (info.st_size > max_bytes)
    return failed_precondition("{}: expected at most {} bytes, found {}", path, max_bytes, info.st_size);
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(info.st_size), '\0');
  if (!file.read(text.data(), info.st_size)) return failed_precondition("{}: cannot be read", path);
  return text;
}

Result<nlohmann::json> parse_json_object(std::string_view text, const std::string& file) {
  if (nesting(text) > kMaxNesting)
    return invalid_argument("{}: expected at most {} nested brackets, found {}", file, kMaxNesting, nesting(text));
  try {
    nlohmann::json value = nlohmann::json::parse(text);
    if (!value.is_object()) return invalid_argument("{}: expected a JSON object, found {}", file, describe(&value));
    return value;
  } catch (const nlohmann::json::parse_error& error) {
    return invalid_argument("{}: expected JSON, found a syntax error at byte {}", file, error.byte);
  } catch (const nlohmann::json::exception&) {  // a number beyond the range of a double
    return invalid_argument("{}: expected JSON, found a number that is out of range", file);
  }
}

std::string in_quotes(std::string_view text) {
  // Twice the shown length is enough text to fill it, and a name of megabytes is not escaped as a whole.
  const nlohmann::json value = std::string(text.substr(0, 2 * kMaxQuotedBytes));
  return cut(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

const nlohmann::json* JsonFields::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() ? nullptr : &*found;
}

bool JsonFields::has(const char* key) const {
  const nlohmann::json* value = find(key);
  return value != nullptr && !value->is_null();
}

bool JsonFields::is_null(const char* key) const {
  const nlohmann::json* value = find(key);
  return value != nullptr && value->is_null();
}

void JsonFields::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void JsonFields::refuse(StatusCode code, const char* key, const std::string& expected) {
  fail({code, fmt::format("{}: {}: expected {}, found {}", where_, key, expected, describe(find(key)))});
}

std::optional<int32_t> JsonFields::to_integer(const nlohmann::json& value, IntegerRange range) const {
  if (!value.is_number_integer()) return std::nullopt;
  // An unsigned value beyond int64 must not wrap around into the range.
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  const int64_t number = value.get<int64_t>();
  if (number < range.min || number >= range.end) return std::nullopt;
  return static_cast<int32_t>(number);
}

int32_t JsonFields::integer(const char* key, IntegerRange range) {
  const int32_t fallback = static_cast<int32_t>(range.min);
  const nlohmann::json* value = find(key);
  if (value != nullptr)
    if (const std::optional<int32_t> number = to_integer(*value, range)) return *number;
  // The double is near enough to tell on which side of the range a refused integer lies.
  const bool too_large = value != nullptr && value->is_number_integer() && value->get<double>() > range.min;
  refuse(StatusCode::kInvalidArgument, key,
         too_large ? fmt::format("an integer in [{}, {})", range.min, range.end) : describe(range));
  return fallback;
}

int32_t JsonFields::integer_or(const char* key, int32_t fallback, IntegerRange range) {
  return has(key) ? integer(key, range) : fallback;
}

double JsonFields::number(const char* key, NumberRange range) {
  const nlohmann::json* value = find(key);
  if (value != nullptr && value->is_number() && range.holds(value->get<double>())) return value->get<double>();
  refuse(StatusCode::kInvalidArgument, key, range.text);
  return range.max;
}

double JsonFields::number_or(const char* key, double fallback, NumberRange range) {
  return has(key) ? number(key, range) : fallback;
}

bool JsonFields::flag(const char* key) {
  const nlohmann::json* value = find(key);
  if (value != nullptr && value->is_boolean()) return value->get<bool>();
  refuse(StatusCode::kInvalidArgument, key, "true or false");
  return false;
}

bool JsonFields::flag_or(const char* key, bool fallback) { return has(key) ? flag(key) : fallback; }

std::string JsonFields::text(const char* key) {
  const nlohmann::json* value = find(key);
  if (value != nullptr && value->is_string()) return value->get<std::string>();
  refuse(StatusCode::kInvalidArgument, key, "a string");
  return {};
}

std::string JsonFields::text_or(const char* key, std::string fallback) {
  return has(key) ? text(key) : std::move(fallback);
}

std::vector<int32_t> JsonFields::integers_or_none(const char* key, IntegerRange range) {
  if (!has(key)) return {};
  const nlohmann::json* value = find(key);
  std::vector<int32_t> numbers;
  const auto add = [&](const nlohmann::json& item) {
    const std::optional<int32_t> number = to_integer(item, range);
    if (number) numbers.push_back(*number);
    return number.has_value();
  };
  bool valid = true;
  if (value->is_array()) {
    for (const nlohmann::json& item : *value) valid = valid && add(item);
  } else {
    valid = add(*value);
  }
  if (!valid)
    refuse(StatusCode::kInvalidArgument, key,
           fmt::format("an integer in [{}, {}) or a list of such", range.min, range.end));
  return numbers;
}

const nlohmann::json* JsonFields::object_or_null(const char* key) {
  if (!has(key)) return nullptr;
  const nlohmann::json* value = find(key);
  if (value->is_object()) return value;
  refuse(StatusCode::kInvalidArgument, key, "an object or null");
  return nullptr;
}

}  // namespace sluice
