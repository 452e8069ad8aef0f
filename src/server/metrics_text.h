// Everything a scrape of /metrics answers, in Prometheus' text format 0.0.4: our own families `sluice_*` (base SI units
// in the name), and the same values under vLLM's names, so that dashboards, autoscalers and endpoint pickers made for
// it work unchanged. Owns no value: it asks the front end, the queue and the loop's report. Any thread.
#pragma once

#include <string>

#include "server/services.h"

namespace sluice {

std::string render_metrics(const Services& services);

}  // namespace sluice
