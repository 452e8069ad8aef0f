// Where a rank stands in its group and how it finds the others. Plain data; src/app fills it from the options and from
// what launchers set.
#pragma once

#include <string>

#include "sluice/clock.h"

namespace sluice {

struct GroupAddress {
  int rank = 0;
  int size = 1;
  std::string host = "127.0.0.1";  // of rank 0, where the key-value store listens
  int port = 0;
  int listener = -1;         // rank 0: a socket that listens on that port already; -1: open one
  std::string own_host;      // at which the others reach this rank; empty: own_address.h finds out
  bool one_machine = false;  // all ranks are on this machine, so the loopback will do
  Duration start_timeout = std::chrono::minutes(10);  // until all ranks have come; they may load for minutes
  Duration timeout = std::chrono::seconds(20);        // of one collective operation
};

}  // namespace sluice
