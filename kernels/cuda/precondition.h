// What a launch needs of its parameters. Whoever breaks it is our own bug: place, condition and values, then abort. The
// twin of SLUICE_CHECK without fmt, whose headers nvcc would read once per architecture.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

namespace sluice::cuda {

[[noreturn]] inline void precondition_failed(const char* file, int line, const char* condition,
                                             std::initializer_list<int64_t> values) {
  std::fprintf(stderr, "%s:%d: expected %s; found", file, line, condition);
  for (const int64_t value : values) std::fprintf(stderr, " %lld", static_cast<long long>(value));
  std::fprintf(stderr, "\n");
  std::abort();
}

}  // namespace sluice::cuda

// SLUICE_PRECONDITION(cols % 8 == 0, cols);
#define SLUICE_PRECONDITION(condition, ...) \
  ((condition) ? static_cast<void>(0)       \
               : ::sluice::cuda::precondition_failed(__FILE__, __LINE__, #condition, {__VA_ARGS__}))
