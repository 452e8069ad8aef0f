#include "scheduler/trace.h"

#include "sluice/check.h"

namespace sluice {

const char* name(TraceKind kind) {
  switch (kind) {
    case TraceKind::kAdmitted:
      return "admitted";
    case TraceKind::kForked:
      return "forked";
    case TraceKind::kPreempted:
      return "preempted";
    case TraceKind::kRejected:
      return "rejected";
    case TraceKind::kFinished:
      return "finished";
  }
  SLUICE_CHECK(false, "kind {}", static_cast<int>(kind));
}

}  // namespace sluice
