#include "app/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace sluice {

namespace {

constexpr char kBar[] = "########################################";
constexpr int kWidth = sizeof(kBar) - 1;
constexpr double kMiB = 1 << 20;

}  // namespace

ProgressBar::ProgressBar(std::string what, int64_t total_bytes)
    : what_(std::move(what)), total_(total_bytes), shown_(isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
}

void ProgressBar::show(int64_t done_bytes) {
  if (!shown_ || total_ <= 0) return;
  const double share = std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(total_));
  const auto filled = static_cast<int>(share * kWidth);
  std::fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%  %.0f of %.0f MiB", what_.c_str(), filled, kBar, kWidth - filled, "",
               share * 100, static_cast<double>(done_bytes) / kMiB, static_cast<double>(total_) / kMiB);
  std::fflush(stderr);
}

}  // namespace sluice
