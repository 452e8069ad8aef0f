#include "parallel/timed_communicator.h"

#include <algorithm>

#include "sluice/check.h"

namespace sluice {

Result<std::vector<std::vector<OperationTime>>> TimedCommunicator::collect() {
  const size_t count = notes_.size();
  std::vector<OperationTime> all(rank() == 0 ? count * static_cast<size_t>(size()) : 0);
  SLUICE_RETURN_IF_ERROR(ranks_.gather(std::as_bytes(std::span(notes_)), std::as_writable_bytes(std::span(all))));
  notes_.clear();
  std::vector<std::vector<OperationTime>> times;
  for (auto begin = all.begin(); begin != all.end(); begin += static_cast<std::ptrdiff_t>(count))
    times.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(count));
  return times;
}

std::vector<TimeSplit> split_time(const std::vector<std::vector<OperationTime>>& times, size_t first, size_t last,
                                  double total) {
  std::vector<int64_t> inside(times.size()), between(times.size());
  int64_t communication = 0;
  for (size_t i = first; i < last; ++i) {
    int64_t shortest = INT64_MAX;
    for (size_t rank = 0; rank < times.size(); ++rank) {
      SLUICE_CHECK(last <= times[rank].size(), "rank {}: operations [{}, {}) of {}", rank, first, last,
                   times[rank].size());
      const auto& [begin, end] = times[rank][i];
      inside[rank] += end - begin;
      if (i > first) between[rank] += begin - times[rank][i - 1].end;
      shortest = std::min(shortest, end - begin);
    }
    communication += shortest;
  }
  std::vector<TimeSplit> splits(times.size());
  for (size_t rank = 0; rank < times.size(); ++rank) {
    TimeSplit& split = splits[rank];
    split.communication = 1e-9 * static_cast<double>(communication);
    split.compute =
        rank == 0 ? total - 1e-9 * static_cast<double>(inside[0]) : 1e-9 * static_cast<double>(between[rank]);
    split.wait = std::max(0.0, total - split.communication - split.compute);
  }
  return splits;
}

}  // namespace sluice
