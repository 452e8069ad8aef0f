// What only the front end sees of requests: how long clients wait, and who is sent away. Owns the histograms; knows no
// text format (metrics_text.h) and nothing that the loop counts itself (LoopReport). The detokeniser thread observes,
// server threads count refusals, scrapes copy; one short lock, which the loop thread never takes.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "sluice/clock.h"
#include "sluice/status.h"

#include "server/generation.h"

namespace sluice {

struct Histogram {
  explicit Histogram(std::vector<double> upper_bounds);
  void observe(double value);

  std::vector<double> bounds;    // ascending; bucket i holds (bounds[i-1], bounds[i]]
  std::vector<uint64_t> counts;  // [bounds.size() + 1], the last one is beyond all bounds
  double sum = 0;
  uint64_t count() const;
};

struct RequestHistograms {
  RequestHistograms();
  // Seconds, as the front end sees them: from the request's submission to its tokens at the detokeniser.
  Histogram first_token, inter_token, end_to_end;
  // Seconds, as the loop measured them; of requests that were admitted.
  Histogram queue, prefill, decode;
  // Tokens, of requests that came to their end.
  Histogram prompt_tokens, generation_tokens;
  // Tokens: the longest choice of each ended request.
  Histogram max_generation_tokens;
};

// Who was sent away for what he is or had, not for what he asked.
enum class Rejection : uint8_t {
  kUnauthenticated,  // no token that is known, or one that was taken back
  kForbidden,        // a page of another site, or a name that is not ours
  kClientLimit,      // his own: answers open at once, or their prompt tokens
  kRateLimit,        // his own: tokens a minute
};

class RequestMetrics {
 public:
  void first_token(Duration since_arrival);
  void inter_token(Duration gap);
  // The last word of an admitted request, whatever its status. `longest_choice` in tokens.
  void ended(const GenerationEnd& end, int32_t longest_choice);
  // Of an answer that was cut off before the loop had its last word.
  void cut(const GenerationEnd& end);
  // No answer was begun for this reason, or the loop turned the request down.
  void rejected(const Status& why);
  void rejected(Rejection why);

  RequestHistograms histograms() const;
  std::map<std::string, int64_t> rejections() const;  // by reason; every reason is there from the start

 private:
  mutable std::mutex mutex_;
  RequestHistograms histograms_;
  std::map<std::string, int64_t> rejections_ = {
      {"client_limit", 0}, {"draining", 0},   {"forbidden", 0}, {"internal", 0},        {"invalid", 0},
      {"queue_full", 0},   {"rate_limit", 0}, {"too_large", 0}, {"unauthenticated", 0}, {"unsupported", 0}};
};

}  // namespace sluice
