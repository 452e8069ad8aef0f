// Ranks as threads of one process that meet over the loopback exactly as processes do: real sockets, real store.
#pragma once

#include <functional>
#include <latch>
#include <thread>
#include <vector>

#include "parallel/group.h"

namespace sluice {

// Runs body(group) once per rank, each in its own thread, after all have met.
inline void run_ranks(int size, const std::function<void(Group&)>& body, Duration timeout = std::chrono::seconds(20)) {
  const Result<int> listener = listen_at("127.0.0.1", 0);
  SLUICE_CHECK(listener.ok(), "{}", listener.status().to_string());
  const int port = port_of(*listener);
  // A rank that needs no other may be done, and gone, while another still meets it: none begins before all have met.
  std::latch all_met(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      GroupAddress address{.rank = rank, .size = size, .port = port, .own_host = {}, .timeout = timeout};
      address.listener = rank == 0 ? *listener : -1;
      auto group = Group::open(address);
      SLUICE_CHECK(group.ok(), "{}", group.status().to_string());
      const Status met = (*group)->meet();
      SLUICE_CHECK(met.ok(), "{}", met.to_string());
      all_met.arrive_and_wait();
      body(**group);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace sluice
