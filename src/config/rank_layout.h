// How the processes of one command share models: `dp` replicas, each a pipeline of `pp` stages, each stage `tp` ranks
// that slice its layers. Pure arithmetic.
//
//   process = (replica * pp + stage) * tp + slice        dp = 2, pp = 2, tp = 2:
//
//              stage 0    stage 1
//   replica 0   0  1       2  3        tensor parallel ranks are neighbours: they talk the most, and launchers place
//   replica 1   4  5       6  7        neighbours on one machine
#pragma once

namespace sluice {

struct RankLayout {
  struct Place {
    int replica = 0, stage = 0, slice = 0;
  };

  int tp = 1, pp = 1, dp = 1;

  int ranks_of_replica() const { return pp * tp; }
  int size() const { return dp * ranks_of_replica(); }
  Place place(int process) const {
    return {.replica = process / ranks_of_replica(), .stage = process / tp % pp, .slice = process % tp};
  }
  int process(const Place& place) const { return (place.replica * pp + place.stage) * tp + place.slice; }
};

}  // namespace sluice
