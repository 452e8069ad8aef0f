// Why the scheduler did what it did, as plain values for a log line, a ring or a test. Owns nothing.
#pragma once

#include <cstdint>

#include "sluice/types.h"

namespace sluice {

enum class TraceKind : uint8_t {
  kAdmitted,   // amount: tokens found in the cache; why: the miss reason ("cold", "evicted", ...)
  kForked,     // amount: choices that now share the prompt
  kPreempted,  // amount: computed tokens given up; why: who needed the page
  kRejected,   // amount: prompt tokens; why: what it does not fit into
  kFinished,   // amount: generated tokens; why: the finish reason
};
const char* name(TraceKind kind);  // "admitted"

struct TraceEvent {
  TraceKind kind = TraceKind::kAdmitted;
  RequestId request{};
  int32_t choice = 0;
  int64_t amount = 0;
  const char* why = "";  // static text
};

}  // namespace sluice
