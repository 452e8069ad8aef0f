// One value of a JSON file together with the path that names it, so that every complaint reads
// "tokenizer.json: model.type: expected "BPE", found "Unigram"". Borrows the document. Any thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "sluice/status.h"

namespace sluice {

// INVALID_ARGUMENT naming the file and the byte where it stops being JSON.
Result<nlohmann::json> parse_json(std::string_view text, std::string_view file);

class JsonField {
 public:
  JsonField(const nlohmann::json* value, std::string file) : value_(value), path_(std::move(file)) {}

  // A member or element; a missing one is a field that holds nothing. Cheap to write, so it is asked of any type.
  JsonField operator[](std::string_view key) const;
  JsonField operator[](size_t index) const;

  bool empty() const { return value_ == nullptr || value_->is_null(); }  // absent or null
  size_t size() const { return value_ == nullptr ? 0 : value_->size(); }
  const nlohmann::json& json() const { return *value_; }  // only if present
  const std::string& path() const { return path_; }       // "tokenizer.json: model.vocab"

  Status expect_array() const;
  // An object without other keys than these: what we do not know may change ids, so we do not skip it.
  Status expect_object(std::initializer_list<std::string_view> known_keys) const;
  Status expect_null() const;                           // FAILED_PRECONDITION: a feature we do not have
  Status expect_string(std::string_view wanted) const;  // FAILED_PRECONDITION, likewise
  Status expect_false() const;                          // absent, null or false; FAILED_PRECONDITION, likewise

  Result<std::string> string() const;
  Result<bool> boolean(bool if_absent) const;
  Result<int64_t> integer(int64_t low, int64_t end) const;  // in [low, end)

  Status wrong(std::string_view expected) const;        // INVALID_ARGUMENT "path: expected X, found Y"
  Status unsupported(std::string_view expected) const;  // FAILED_PRECONDITION, the same text

 private:
  std::string complaint(std::string_view expected) const;

  const nlohmann::json* value_;  // null: absent
  std::string path_;
};

}  // namespace sluice
