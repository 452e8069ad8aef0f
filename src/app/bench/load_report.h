// What came of a load, in the definitions of `vllm bench serve`: time to the first token (sent -> first token), every
// gap between streamed messages, end to end; goodput counts the requests per second that met the objectives.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "app/bench/load.h"

namespace sluice {

// A request meets them if its first token came in time and its mean gap is short enough.
struct Objectives {
  double ttft_ms = 1000;
  double itl_ms = 100;
};

// `utilization` is the share of the time that the server was inside the model. Percentiles of nothing are null.
nlohmann::ordered_json load_report(const std::vector<TurnRecord>& records, const Objectives& objectives,
                                   double wall_seconds, double utilization);

}  // namespace sluice
