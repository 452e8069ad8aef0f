// What launchers set, as a process of theirs finds it.
#include "config/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace sluice {
namespace {

using Variables = std::map<std::string, std::string>;

Result<Launch> launch_in(int wanted, const Variables& variables) {
  return read_launch(wanted, [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

void expect_error(int wanted, const Variables& variables, const std::string& part) {
  const auto launch = launch_in(wanted, variables);
  ASSERT_FALSE(launch.ok());
  EXPECT_EQ(launch.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(launch.status().message(), testing::HasSubstr(part));
}

TEST(Launch, NobodyLaunchedRanks) {
  const Launch launch = launch_in(4, {}).value();
  EXPECT_FALSE(launch.is_rank);
  EXPECT_EQ(launch.size, 4);
  EXPECT_TRUE(launch_in(1, {{"RANK", "3"}, {"WORLD_SIZE", "8"}}).value().leads()) << "one rank asks no launcher";
  // A batch script without srun: one task, which starts its ranks itself.
  EXPECT_FALSE(launch_in(2, {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}}).value().is_rank);
}

TEST(Launch, Torchrun) {
  Variables set = {{"RANK", "3"},         {"WORLD_SIZE", "4"},     {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"},
                   {"MASTER_ADDR", "n0"}, {"MASTER_PORT", "29400"}};
  Launch launch = launch_in(4, set).value();
  EXPECT_TRUE(launch.is_rank);
  EXPECT_EQ(std::tuple(launch.rank, launch.size, launch.local_size, launch.host, launch.port),
            std::tuple(3, 4, 2, std::string("n0"), 29400));
  set["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  EXPECT_EQ(launch_in(4, set).value().port, 29401) << "the agent has the port";
}

TEST(Launch, LeaderWorkerSet) {
  const Launch launch =
      launch_in(2, {{"LWS_WORKER_INDEX", "1"}, {"LWS_GROUP_SIZE", "2"}, {"LWS_LEADER_ADDRESS", "l.svc"}}).value();
  EXPECT_EQ(std::tuple(launch.rank, launch.local_size, launch.host, launch.port),
            std::tuple(1, 1, std::string("l.svc"), kDefaultMasterPort));
}

TEST(Launch, SlurmAndOpenMpi) {
  const Launch slurm =
      launch_in(4, {{"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}, {"SLURM_STEP_NODELIST", "node[07-08]"}}).value();
  EXPECT_EQ(std::tuple(slurm.rank, slurm.host), std::tuple(2, std::string("node07")));
  const Launch mpi = launch_in(2, {{"OMPI_COMM_WORLD_RANK", "1"},
                                   {"OMPI_COMM_WORLD_SIZE", "2"},
                                   {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                   {"MASTER_ADDR", "10.0.0.1"}})
                         .value();
  EXPECT_EQ(std::tuple(mpi.rank, mpi.local_size, mpi.host), std::tuple(1, 2, std::string("10.0.0.1")));
}

TEST(Launch, WhatASluiceParentSets) {
  Variables set;
  std::string lines =
      launch_variables({.is_rank = true, .rank = 1, .size = 2, .local_size = 2, .port = 1234, .listener = 7});
  for (size_t at = 0; at < lines.size(); at = lines.find('\n', at) + 1) {
    const size_t equals = lines.find('=', at);
    set[lines.substr(at, equals - at)] = lines.substr(equals + 1, lines.find('\n', at) - equals - 1);
  }
  const Launch launch = launch_in(2, set).value();
  EXPECT_EQ(std::tuple(launch.rank, launch.size, launch.port, launch.listener, launch.is_rank),
            std::tuple(1, 2, 1234, 7, true));
}

TEST(Launch, Errors) {
  expect_error(4, {{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "tp: 4 ranks, but torchrun started 2 processes (WORLD_SIZE)");
  expect_error(2, {{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}, "RANK: expected a number in [0, 1]");
  expect_error(2, {{"RANK", "0"}, {"WORLD_SIZE", "two"}}, "WORLD_SIZE: expected a number");
  expect_error(2, {{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "MASTER_ADDR");
  expect_error(2, {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "0"}}, "MASTER_PORT");
}

TEST(Launch, FirstHostOfSlurmsList) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("node[1-3]"), "node1");
  EXPECT_EQ(first_host("gpu[07,09-11],x[1-2]"), "gpu07");
  EXPECT_EQ(first_host("a,gpu[1-2]"), "a");
}

}  // namespace
}  // namespace sluice
