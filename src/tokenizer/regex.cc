#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>

#include "sluice/check.h"

namespace sluice {
namespace {

// Backtracking steps one search may take: at least 10 million, and 64 for each byte. The known patterns take a few
// per byte; a hostile pattern stops after about a second instead of never.
constexpr size_t kMinSteps = 10'000'000;
constexpr size_t kStepsPerByte = 64;

// KiB of heap for the interpreter's backtracking points (it needs about 150 bytes for one).
constexpr uint32_t kHeapKib = 4u << 20;

uint32_t step_limit(size_t text_bytes) {
  return static_cast<uint32_t>(std::clamp<size_t>(text_bytes * kStepsPerByte, kMinSteps, UINT32_MAX));
}

std::string describe(int error) {
  PCRE2_UCHAR text[128];
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

void RegexScratch::Free::operator()(pcre2_match_data* data) const {
  pcre2_match_data_free(data);
}
void RegexScratch::Free::operator()(pcre2_match_context* context) const {
  pcre2_match_context_free(context);
}
void Regex::Free::operator()(pcre2_code* code) const {
  pcre2_code_free(code);
}

RegexScratch::RegexScratch()
    : data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
  SLUICE_CHECK(data_ != nullptr && context_ != nullptr, "out of memory");
  pcre2_set_heap_limit(context_.get(), kHeapKib);
}

Result<Regex> Regex::compile(const std::string& pattern, const std::string& path) {
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  SLUICE_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  Regex regex;
  regex.path_ = path;
  regex.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context.get()));
  if (regex.code_ == nullptr)
    return failed_precondition("{}: expected a regular expression, found one that does not compile ({} near byte {})",
                               path, describe(error), offset);
  uint32_t may_match_empty = 0;
  pcre2_pattern_info(regex.code_.get(), PCRE2_INFO_MATCHEMPTY, &may_match_empty);
  if (may_match_empty != 0)
    return failed_precondition(
        "{}: expected a pattern that matches at least one character, found one that can match "
        "the empty text",
        path);
  regex.has_jit_ = pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE) == 0;
  return regex;
}

int Regex::search_interpreted(std::string_view text, size_t from, RegexScratch* scratch) const {
  return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                     PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch->data_.get(), scratch->context_.get());
}

Result<bool> Regex::find(std::string_view text, size_t from, RegexScratch* scratch, RegexMatch* match) const {
  pcre2_set_match_limit(scratch->context_.get(), step_limit(text.size()));
  int code = PCRE2_ERROR_JIT_STACKLIMIT;
  if (has_jit_) {
    code = pcre2_jit_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, 0,
                           scratch->data_.get(), scratch->context_.get());
  }
  // The compiled code keeps its backtracking points on 32 KiB of stack; the interpreter has the heap.
  if (code == PCRE2_ERROR_JIT_STACKLIMIT) code = search_interpreted(text, from, scratch);
  if (code == PCRE2_ERROR_NOMATCH) return false;
  if (code < 0)
    return Status(StatusCode::kResourceExhausted,
                  fmt::format("{}: searching a text of {} bytes failed ({})", path_, text.size(), describe(code)));
  const size_t* bounds = pcre2_get_ovector_pointer(scratch->data_.get());
  *match = {bounds[0], bounds[1]};
  SLUICE_CHECK(match->end > match->begin, "{}: an empty match at byte {}", path_, match->begin);
  return true;
}

}  // namespace sluice
