// Running requests without a server: the caller's thread steps the core until the request has ended. Owns the core.
#pragma once

#include <functional>

#include "app/serving_core.h"

namespace sluice {

class OfflineRunner final : public TokenSink {
 public:
  OfflineRunner(LoadedModel& loaded, const Options& options) : core_(loaded, options, *this) {}

  // Runs one request to its end and hands over its events as they come. `stop` is asked before each step; true cancels.
  void run(
      Request request, const std::function<void(const TokenEvent&)>& on_event,
      const std::function<bool()>& stop = [] { return false; });

  ServingCore& core() { return core_; }

 private:
  void emit(TokenEvent event) override { on_event_(event); }

  std::function<void(const TokenEvent&)> on_event_;
  ServingCore core_;
  uint64_t next_id_ = 1;
};

}  // namespace sluice
