#include "tokenizer/json_field.h"

#include <algorithm>

#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// Messages stay short whatever the file holds.
constexpr size_t kMaxQuoted = 60;

std::string quote(std::string_view text) {
  if (text.size() <= kMaxQuoted) return fmt::format("\"{}\"", text);
  const std::string_view head = text.substr(0, kMaxQuoted);
  return fmt::format("\"{}...\"", head.substr(0, valid_utf8_prefix(head)));
}

std::string found(const nlohmann::json* value) {
  if (value == nullptr) return "nothing";
  if (value->is_string()) return quote(value->get_ref<const std::string&>());
  if (value->is_object()) return "an object";
  if (value->is_array()) return fmt::format("an array of {}", value->size());
  return value->dump();
}

}  // namespace

Result<nlohmann::json> parse_json(std::string_view text, std::string_view file) {
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    // The library's text quotes the input, which need not be UTF-8; the place is enough.
    return invalid_argument("{}: not valid JSON at byte {}", file, error.byte);
  } catch (const nlohmann::json::exception& error) {
    return invalid_argument("{}: not valid JSON ({})", file, error.id);
  }
}

JsonField JsonField::operator[](std::string_view key) const {
  JsonField member(nullptr, fmt::format("{}{}{}", path_, path_.ends_with(".json") ? ": " : ".", key));
  if (value_ == nullptr || !value_->is_object()) return member;
  const auto place = value_->find(std::string(key));
  if (place != value_->end()) member.value_ = &*place;
  return member;
}

JsonField JsonField::operator[](size_t index) const {
  JsonField element(nullptr, fmt::format("{}[{}]", path_, index));
  if (value_ != nullptr && value_->is_array() && index < value_->size()) element.value_ = &(*value_)[index];
  return element;
}

Status JsonField::expect_array() const {
  return value_ != nullptr && value_->is_array() ? Status() : wrong("an array");
}

Status JsonField::expect_object(std::initializer_list<std::string_view> known_keys) const {
  if (value_ == nullptr || !value_->is_object()) return wrong("an object");
  for (const auto& [key, member] : value_->items()) {
    if (std::find(known_keys.begin(), known_keys.end(), key) == known_keys.end())
      return failed_precondition("{}: unknown key {}, expected one of {}", path_, quote(key),
                                 fmt::join(known_keys, ", "));
  }
  return {};
}

Status JsonField::expect_null() const {
  return empty() ? Status() : unsupported("null");
}

Status JsonField::expect_string(std::string_view wanted) const {
  const bool same = value_ != nullptr && value_->is_string() && value_->get_ref<const std::string&>() == wanted;
  return same ? Status() : unsupported(fmt::format("\"{}\"", wanted));
}

Status JsonField::expect_false() const {
  const bool off = empty() || (value_->is_boolean() && !value_->get<bool>());
  return off ? Status() : unsupported("false");
}

Result<std::string> JsonField::string() const {
  if (value_ == nullptr || !value_->is_string()) return wrong("a string");
  return value_->get_ref<const std::string&>();
}

Result<bool> JsonField::boolean(bool if_absent) const {
  if (empty()) return if_absent;
  if (!value_->is_boolean()) return wrong("true or false");
  return value_->get<bool>();
}

Result<int64_t> JsonField::integer(int64_t low, int64_t end) const {
  const auto complain = [&] { return wrong(fmt::format("an integer in [{}, {})", low, end)); };
  if (value_ == nullptr || !value_->is_number_integer()) return complain();
  if (value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return complain();
  const int64_t number = value_->get<int64_t>();
  if (number < low || number >= end) return complain();
  return number;
}

Status JsonField::wrong(std::string_view expected) const {
  return {StatusCode::kInvalidArgument, complaint(expected)};
}

Status JsonField::unsupported(std::string_view expected) const {
  return {StatusCode::kFailedPrecondition, complaint(expected)};
}

std::string JsonField::complaint(std::string_view expected) const {
  return fmt::format("{}: expected {}, found {}", path_, expected, found(value_));
}

}  // namespace sluice
