#include "server/json_body.h"

#include <cmath>
#include <limits>
#include <utility>

namespace sluice {

using json = Json;

Result<json> parse_body(std::string_view text) {
  json body;
  try {
    body = json::parse(text);
  } catch (const json::parse_error& error) {
    return invalid_argument("body: is not valid JSON from byte {} on", error.byte);
  } catch (const json::exception&) {
    return invalid_argument("body: holds a number beyond the range of a double");
  }
  if (!body.is_object()) return invalid_argument("body: expected a JSON object, found {}", kind_of(body));
  return body;
}

const json* JsonBody::find(const char* name) {
  known_.insert(name);
  const auto place = object_.find(name);
  return place == object_.end() || place->is_null() ? nullptr : &*place;
}

Status JsonBody::read(const char* name, bool* out) {
  const json* value = find(name);
  if (!value) return {};
  if (!value->is_boolean()) return wrong(name, "true or false");
  *out = value->get<bool>();
  return {};
}

Status JsonBody::read(const char* name, int64_t* out) {
  const json* value = find(name);
  if (!value) return {};
  const bool fits = !value->is_number_unsigned() || std::in_range<int64_t>(value->get<uint64_t>());
  if (!value->is_number_integer() || !fits) return wrong(name, "an integer");
  *out = value->get<int64_t>();
  return {};
}

Status JsonBody::read(const char* name, int32_t* out) {
  int64_t wide = *out;
  SLUICE_RETURN_IF_ERROR(read(name, &wide));
  if (!std::in_range<int32_t>(wide)) return invalid_argument("{}: {} is out of range", path(name), wide);
  *out = static_cast<int32_t>(wide);
  return {};
}

Status JsonBody::read(const char* name, float* out) {
  const json* value = find(name);
  if (!value) return {};
  if (!value->is_number()) return wrong(name, "a number");
  *out = static_cast<float>(value->get<double>());
  return {};
}

Status JsonBody::read(const char* name, std::string* out) {
  const json* value = find(name);
  if (!value) return {};
  if (!value->is_string()) return wrong(name, "a string");
  *out = value->get<std::string>();
  return {};
}

void JsonBody::ignore(std::initializer_list<const char*> names) {
  for (const char* name : names) known_.insert(name);
}

Status JsonBody::expect_nothing_else() const {
  for (const auto& [name, value] : object_.items())
    if (!known_.contains(name)) return invalid_argument("{}: unknown field", path(name));
  return {};
}

Status JsonBody::wrong(std::string_view name, std::string_view expected) const {
  const auto place = object_.find(name);
  return invalid_argument("{}: expected {}, found {}", path(name), expected,
                          place == object_.end() ? "nothing" : kind_of(*place));
}

const char* kind_of(const json& value) {
  switch (value.type()) {
    case json::value_t::null:
      return "null";
    case json::value_t::object:
      return "an object";
    case json::value_t::array:
      return "an array";
    case json::value_t::string:
      return "a string";
    case json::value_t::boolean:
      return "true or false";
    case json::value_t::number_float:
      return "a number with a fraction";
    case json::value_t::number_integer:
    case json::value_t::number_unsigned:
      return "an integer";
    default:
      return "something else";
  }
}

}  // namespace sluice
