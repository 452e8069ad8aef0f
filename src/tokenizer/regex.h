// One compiled PCRE2 pattern and the search for its matches. Owns the compiled code; the working memory of a search
// belongs to the caller, so that a Regex is shared by all threads. Texts must be well-formed UTF-8, checked once by
// whoever hands them in.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "sluice/status.h"

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;

namespace sluice {

// Working memory of searches, one per thread; any pattern may use it.
class RegexScratch {
 public:
  RegexScratch();

 private:
  friend class Regex;
  struct Free {
    void operator()(pcre2_real_match_data_8* data) const;
    void operator()(pcre2_real_match_context_8* context) const;
  };
  std::unique_ptr<pcre2_real_match_data_8, Free> data_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
};

struct RegexMatch {
  size_t begin = 0;  // bytes [begin, end) of the text, never empty
  size_t end = 0;
};

class Regex {
 public:
  // `path` names the pattern in errors. FAILED_PRECONDITION if it does not compile or could match the empty text.
  static Result<Regex> compile(const std::string& pattern, const std::string& path);

  // The first match that begins at `from` or later; false if there is none. RESOURCE_EXHAUSTED if the search takes
  // absurdly many steps, which no pattern in use does (see kMinSteps).
  Result<bool> find(std::string_view text, size_t from, RegexScratch* scratch, RegexMatch* match) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  Regex() = default;

  int search_interpreted(std::string_view text, size_t from, RegexScratch* scratch) const;

  std::unique_ptr<pcre2_real_code_8, Free> code_;
  bool has_jit_ = false;
  std::string path_;
};

}  // namespace sluice
