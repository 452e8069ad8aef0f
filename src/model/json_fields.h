// Typed, range-checked reading of JSON files from the outside world: config.json, generation_config.json and the shard
// index. Owns the wording of their errors ("FILE: KEY: expected X, found Y") and the border where the JSON library's
// exceptions end. Knows no key. Called at load time, on one thread.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/status.h"

namespace sluice {

// A whole regular file of at most `max_bytes`. NOT_FOUND if absent, FAILED_PRECONDITION if larger or no regular file.
Result<std::string> read_small_file(const std::string& path, int64_t max_bytes);

// The text as a JSON object. Nesting deeper than 64 is refused before anything is built. Of a key that occurs twice
// the last one counts.
Result<nlohmann::json> parse_json_object(std::string_view text, const std::string& file);

// A JSON string in quotes, control characters escaped, cut after 80 bytes: what a one-line error may show of a name
// or value that came out of a file.
std::string in_quotes(std::string_view text);

// A range of real numbers and how an error calls it.
struct NumberRange {
  double min;
  bool min_included;
  double max;
  bool max_included;
  const char* text;

  bool holds(double value) const {
    return (min_included ? value >= min : value > min) && (max_included ? value <= max : value < max);
  }
};

constexpr double kLargestNumber = 1e30;  // squares still fit a double, the value itself a float
constexpr NumberRange kPositiveNumber{0, false, kLargestNumber, true, "a positive number"};
constexpr NumberRange kNonNegativeNumber{0, true, kLargestNumber, true, "a non-negative number"};

// A half-open range [min, end) of integers.
struct IntegerRange {
  int64_t min;
  int64_t end;
};

// Reads fields of one object and keeps the first error: read everything, then look at status() once. What a reader
// returns beside an error is some harmless value. An `_or` reader takes a missing key and null as its fallback; the
// others demand the key.
class JsonFields {
 public:
  // `object` must outlive this; `where` opens each error.
  JsonFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(const char* key) const;      // present and not null
  bool is_null(const char* key) const;  // present and null

  int32_t integer(const char* key, IntegerRange range);
  int32_t integer_or(const char* key, int32_t fallback, IntegerRange range);
  double number(const char* key, NumberRange range);
  double number_or(const char* key, double fallback, NumberRange range);
  bool flag(const char* key);
  bool flag_or(const char* key, bool fallback);
  std::string text(const char* key);
  std::string text_or(const char* key, std::string fallback);
  // One integer or a list of them; empty when missing or null.
  std::vector<int32_t> integers_or_none(const char* key, IntegerRange range);
  // The nested object, or nullptr when missing or null.
  const nlohmann::json* object_or_null(const char* key);

  // "WHERE: KEY: expected EXPECTED, found <value of key>".
  void refuse(StatusCode code, const char* key, const std::string& expected);
  // Takes over an error found elsewhere, unless there already is one.
  void fail(Status status);

  const Status& status() const { return status_; }

 private:
  const nlohmann::json* find(const char* key) const;  // nullptr when missing
  std::optional<int32_t> to_integer(const nlohmann::json& value, IntegerRange range) const;

  const nlohmann::json& object_;
  std::string where_;
  Status status_;
};

}  // namespace sluice
