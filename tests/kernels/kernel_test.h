// What all kernel tests share: seeded inputs, outputs between guards, packed weights, a team with dirty scratch, and
// comparisons that name the first bad coordinate.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "sluice/ops.h"

#include "kernels/registry.h"

namespace sluice {

// Half the distance from 1 to the next f32: the largest relative error of one rounding.
constexpr double kUnit = 0x1p-24;

// Pure function of (seed, index): uniform with the given standard deviation.
inline float value_at(uint64_t seed, int64_t index, double deviation = 1) {
  uint64_t z = seed * 0xD1B54A32D192ED03 + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  const double unit = static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  return static_cast<float>((2 * unit - 1) * std::sqrt(3.0) * deviation);
}

inline std::vector<float> random_values(int64_t count, uint64_t seed, double deviation = 1) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = value_at(seed, i, deviation);
  return values;
}

inline uint64_t random_bits(uint64_t seed, int64_t index) {
  return std::bit_cast<uint32_t>(value_at(seed, index)) * uint64_t{0x9E3779B97F4A7C15} >> 32;
}

// Fisher-Yates.
inline std::vector<int32_t> shuffled(int32_t count, uint64_t seed) {
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[random_bits(seed, static_cast<int64_t>(i)) % i]);
  return order;
}

// Backends that are compared with the oracle.
inline std::vector<const Backend*> product_backends() {
  std::vector<const Backend*> backends = runnable_backends();
  backends.erase(backends.begin());
  return backends;
}
inline const Backend& oracle() { return *runnable_backends().front(); }

// The oracle's answer to a question that every backend is asked, worked out at the first. `question` names all that the
// answer depends on.
template <typename Answer>
const std::vector<float>& oracle_answer(const std::string& question, Answer&& answer) {
  static std::map<std::string, std::vector<float>> answers;
  const auto found = answers.find(question);
  return found != answers.end() ? found->second : answers.emplace(question, answer()).first->second;
}

// A team with scratch memory full of NaNs: kernels may not count on what they find there.
struct TestContext {
  explicit TestContext(int threads = 1, size_t scratch_bytes = size_t{1} << 20) : team(threads) {
    std::memset(scratch.reserve(scratch_bytes), 0xFF, scratch_bytes);
  }
  operator OpContext&() { return op; }

  ThreadTeam team;
  Scratch scratch;
  OpContext op{team, scratch};
};

// An output: `count` elements of all ones (f32: NaN, i32: -1) between guards that nobody may touch.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t count) : bytes_(static_cast<size_t>(count) * sizeof(T) + 2 * kGuard, std::byte{0xFF}) {
    std::fill_n(bytes_.begin(), kGuard, std::byte{0xA5});
    std::fill_n(bytes_.rbegin(), kGuard, std::byte{0xA5});
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(static_cast<int64_t>(values.size())) {
    if (!values.empty()) std::memcpy(data(), values.data(), values.size() * sizeof(T));
  }

  T* data() { return reinterpret_cast<T*>(bytes_.data() + kGuard); }
  int64_t size() const { return static_cast<int64_t>((bytes_.size() - 2 * kGuard) / sizeof(T)); }
  std::span<const T> values() const {
    return {reinterpret_cast<const T*>(bytes_.data() + kGuard), static_cast<size_t>(size())};
  }
  T operator[](int64_t i) const { return values()[static_cast<size_t>(i)]; }

  bool guards_intact() const {
    const auto intact = [](std::byte b) { return b == std::byte{0xA5}; };
    return std::all_of(bytes_.begin(), bytes_.begin() + kGuard, intact) &&
           std::all_of(bytes_.end() - kGuard, bytes_.end(), intact);
  }
  bool untouched(int64_t begin, int64_t end) const {
    const auto* p = reinterpret_cast<const uint8_t*>(bytes_.data() + kGuard);
    return std::all_of(p + begin * static_cast<int64_t>(sizeof(T)), p + end * static_cast<int64_t>(sizeof(T)),
                       [](uint8_t b) { return b == 0xFF; });
  }

 private:
  static constexpr int64_t kGuard = 256;  // bytes; a whole tile row (64 f32) of overrun falls into it
  std::vector<std::byte> bytes_;
};

// A weight packed for one backend, in two calls where it has more than one panel, as loader threads do.
class PackedWeight {
 public:
  PackedWeight(const Backend& backend, WeightFormat format, int64_t rows, int64_t cols, std::span<const float> source)
      : bytes_(backend.packed_bytes(format, rows, cols)), data_(static_cast<size_t>(bytes_) + 64) {
    std::memset(data_.data(), 0xFF, data_.size());
    weight_ = {format, rows, cols, data_.data()};
    const int64_t first = std::min(rows, (rows / 2 + kPackRows - 1) / kPackRows * kPackRows);
    backend.pack(weight_, first, rows - first, source.data() + first * cols, data_.data());
    backend.pack(weight_, 0, first, source.data(), data_.data());
    for (size_t i = data_.size() - 64; i < data_.size(); ++i)
      if (data_.data()[i] != std::byte{0xFF}) ADD_FAILURE() << backend.name << " packs beyond packed_bytes";
  }
  const Weight& view() const { return weight_; }

 private:
  int64_t bytes_;
  Buffer data_;
  Weight weight_;
};

inline std::string coordinate(size_t index, int64_t cols) {
  return fmt::format("[{}, {}]", static_cast<int64_t>(index) / cols, static_cast<int64_t>(index) % cols);
}

inline void expect_same_bits(std::span<const float> got, std::span<const float> want, int64_t cols,
                             const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  size_t bad = 0, first = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(want[i])) continue;
    if (bad++ == 0) first = i;
  }
  if (bad > 0)
    ADD_FAILURE() << what << ": " << bad << " of " << got.size() << " values differ in bits, first "
                  << coordinate(first, cols) << fmt::format(": got {:.9g}, want {:.9g}", got[first], want[first]);
}

// The same NaNs and infinities; |got - want| <= allowed(i) for every element; and the distance of the whole,
// |got - want| / |want| <= distance. The caller derives both bounds.
template <typename Allowed>
void expect_close(std::span<const float> got, std::span<const float> want, int64_t cols, double distance,
                  Allowed&& allowed, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  size_t bad = 0, first = 0;
  double difference = 0, norm = 0, worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    bool good = std::isnan(got[i]) == std::isnan(want[i]);
    if (std::isinf(got[i]) || std::isinf(want[i])) {
      good = got[i] == want[i];
    } else if (good && !std::isnan(want[i])) {
      const double d = std::abs(double{got[i]} - want[i]), limit = allowed(i);
      good = d <= limit;
      if (limit > 0) worst = std::max(worst, d / limit);
      difference += d * d;
      norm += double{want[i]} * want[i];
    }
    if (!good && bad++ == 0) first = i;
  }
  if (bad > 0)
    ADD_FAILURE() << what << ": " << bad << " of " << got.size() << " values are off, first " << coordinate(first, cols)
                  << fmt::format(": got {:.9g}, want {:.9g}, allowed {:.3g}; worst {:.2f} of the bound", got[first],
                                 want[first], static_cast<double>(allowed(first)), worst);
  EXPECT_LE(std::sqrt(difference), distance * std::sqrt(norm)) << what << ": relative distance";
}

// Tests of all product backends: one fixture, instantiated per backend.
class BackendTest : public ::testing::TestWithParam<const Backend*> {
 protected:
  const Backend& backend() const { return *GetParam(); }
};

inline std::string backend_name(const ::testing::TestParamInfo<const Backend*>& info) {
  std::string text = info.param->name;
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

#define SLUICE_FOR_PRODUCT_BACKENDS(suite) \
  INSTANTIATE_TEST_SUITE_P(Cpu, suite, ::testing::ValuesIn(product_backends()), backend_name)

}  // namespace sluice
