// Our own bugs: print place, condition and values, then abort. Active in every build type; on a hot path
// use SLUICE_DCHECK, which is compiled in debug builds only.
#pragma once

#include <fmt/format.h>

namespace sluice {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& values);

}  // namespace sluice

// SLUICE_CHECK(a <= b, "a={} b={}", a, b);
#define SLUICE_CHECK(condition, ...)                                                       \
  do {                                                                                     \
    if (!(condition)) [[unlikely]]                                                         \
      ::sluice::check_failed(__FILE__, __LINE__, #condition, fmt::format("" __VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define SLUICE_DCHECK(condition, ...) \
  do {                                \
  } while (false)
#else
#define SLUICE_DCHECK(condition, ...) SLUICE_CHECK(condition, __VA_ARGS__)
#endif
