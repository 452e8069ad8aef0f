#include "app/bench/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace sluice {

namespace {

constexpr int kBarWidth = 30;

}  // namespace

Progress::Progress(std::string label, int64_t total)
    : label_(std::move(label)), total_(std::max<int64_t>(1, total)), shown_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void Progress::show(int64_t done, const std::string& note) {
  if (!shown_) return;
  const auto filled = static_cast<size_t>(std::min(done, total_) * kBarWidth / total_);
  std::fputs(fmt::format("\r{} [{}{}] {} of {}  {}\033[K", label_, std::string(filled, '#'),
                         std::string(kBarWidth - filled, ' '), done, total_, note)
                 .c_str(),
             stderr);
  std::fflush(stderr);
}

}  // namespace sluice
