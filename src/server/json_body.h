// A JSON object that a client sent, read field by field: every complaint begins with the field's name, and a field that
// nobody asked for is a mistake, too. Borrows the document. Any thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "sluice/status.h"

namespace sluice {

// Keys in the order in which the client wrote them: of a schema it is the order of the answer.
using Json = nlohmann::ordered_json;

// INVALID_ARGUMENT says at which byte it stops being JSON, or that it is no object.
Result<Json> parse_body(std::string_view text);

class JsonBody {
 public:
  // `object` is one; `path` stands before the fields' names ("messages[1].").
  explicit JsonBody(const Json& object, std::string path = "") : object_(object), path_(std::move(path)) {}

  // The field, or null if it is absent or null. Either way it is known from now on.
  const Json* find(const char* name);
  // Leaves `out` as it is where the field is absent. The type must fit; ranges are others' business, but an integer
  // must fit its type.
  Status read(const char* name, bool* out);
  Status read(const char* name, int32_t* out);
  Status read(const char* name, int64_t* out);
  Status read(const char* name, float* out);
  Status read(const char* name, std::string* out);
  // Fields that change nothing here.
  void ignore(std::initializer_list<const char*> names);
  // Names the first field that nobody has asked for.
  Status expect_nothing_else() const;

  std::string path(std::string_view name) const { return path_ + std::string(name); }
  // "temperature: expected a number, found a string"
  Status wrong(std::string_view name, std::string_view expected) const;

 private:
  const Json& object_;
  const std::string path_;
  std::set<std::string, std::less<>> known_;
};

// "a string", "an object", ...
const char* kind_of(const Json& value);

}  // namespace sluice
