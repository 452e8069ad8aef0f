#include "server/stop_finder.h"

#include <algorithm>

#include "sluice/check.h"

namespace sluice {

StopFinder::StopFinder(const std::vector<std::string>& stops) {
  for (const std::string& text : stops) {
    SLUICE_CHECK(!text.empty(), "an empty stop string");
    std::vector<uint32_t> failure(text.size(), 0);
    uint32_t length = 0;
    for (size_t i = 1; i < text.size(); ++i) {
      while (length > 0 && text[i] != text[length]) length = failure[length - 1];
      if (text[i] == text[length]) ++length;
      failure[i] = length;
    }
    patterns_.push_back({text, std::move(failure)});
  }
}

bool StopFinder::Pattern::advance(char byte) {
  while (matched > 0 && text[matched] != byte) matched = failure[matched - 1];
  if (text[matched] == byte) ++matched;
  return matched == text.size();
}

std::optional<size_t> StopFinder::push(std::string_view piece, std::string* certain) {
  for (const char byte : piece) {
    held_ += byte;
    std::optional<size_t> found;
    for (size_t i = 0; i < patterns_.size(); ++i) {
      const bool complete = patterns_[i].advance(byte);
      if (complete && (!found || patterns_[i].text.size() > patterns_[*found].text.size())) found = i;
    }
    if (!found) continue;
    certain->append(held_, 0, held_.size() - patterns_[*found].text.size());
    held_.clear();
    for (Pattern& pattern : patterns_) pattern.matched = 0;
    return found;
  }
  size_t candidate = 0;
  for (const Pattern& pattern : patterns_) candidate = std::max(candidate, pattern.matched);
  certain->append(held_, 0, held_.size() - candidate);
  held_.erase(0, held_.size() - candidate);
  return std::nullopt;
}

void StopFinder::flush(std::string* certain) {
  *certain += held_;
  held_.clear();
  for (Pattern& pattern : patterns_) pattern.matched = 0;
}

}  // namespace sluice
