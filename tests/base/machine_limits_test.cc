// Limits of control groups, read from trees of files as the kernel lays them out.
#include "base/machine_limits.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace sluice {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kMiB = 1 << 20;

class MachineLimits : public testing::Test {
 protected:
  MachineLimits() : root_(testing::TempDir() + "/sluice_limits_" + std::to_string(getpid())) {
    write("/proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       0\n");
  }
  ~MachineLimits() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    fs::create_directories(fs::path(root_ + file).parent_path());
    std::ofstream(root_ + file) << text;
  }
  void write_2(const std::string& group, const std::string& limit, int64_t used, int64_t cache,
               const std::string& cpu) {
    const std::string folder = "/sys/fs/cgroup" + group;
    write(folder + "/memory.max", limit + "\n");
    write(folder + "/memory.current", std::to_string(used) + "\n");
    write(folder + "/memory.stat", "anon 5\ninactive_file " + std::to_string(cache) + "\nactive_file 7\n");
    write(folder + "/cpu.max", cpu + "\n");
  }

  const std::string root_;
};

TEST_F(MachineLimits, WithoutGroupsTheMachineIsAll) {
  EXPECT_EQ(available_memory(root_), 8192 * kMiB);
  EXPECT_FALSE(group_limits(root_).memory_bytes);
  EXPECT_FALSE(group_limits(root_).cpus);
}

TEST_F(MachineLimits, TheTightestGroupOfAPathCounts) {
  write("/proc/self/cgroup", "0::/pods/mine\n");
  write_2("/pods", std::to_string(2048 * kMiB), 1500 * kMiB, 100 * kMiB, "max 100000");
  write_2("/pods/mine", std::to_string(1024 * kMiB), 300 * kMiB, 50 * kMiB, "250000 100000");
  const GroupLimits limits = group_limits(root_);
  EXPECT_EQ(limits.memory_bytes, 1024 * kMiB);
  EXPECT_EQ(limits.memory_available, 648 * kMiB) << "of the upper group: its neighbours use it";
  EXPECT_EQ(limits.cpus, 2.5);
  EXPECT_EQ(available_memory(root_), 648 * kMiB);
}

TEST_F(MachineLimits, UnlimitedIsNoLimit) {
  write("/proc/self/cgroup", "0::/\n");
  write_2("", "max", 300 * kMiB, 0, "max 100000");
  EXPECT_FALSE(group_limits(root_).memory_bytes);
  EXPECT_FALSE(group_limits(root_).cpus);
  EXPECT_EQ(available_memory(root_), 8192 * kMiB);
}

TEST_F(MachineLimits, AContainerSeesOnlyTheTopOfItsHierarchy) {
  write("/proc/self/cgroup", "0::/kubepods/pod7/container9\n");  // the host's names, none of them mounted here
  write_2("", std::to_string(512 * kMiB), 512 * kMiB, 0, "50000 100000");
  EXPECT_EQ(available_memory(root_), 0);
  EXPECT_EQ(group_limits(root_).cpus, 0.5);
}

TEST_F(MachineLimits, VersionOne) {
  write("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/pod\n2:cpu,cpuacct:/pod\n0::/\n");
  const std::string memory = "/sys/fs/cgroup/memory", cpu = "/sys/fs/cgroup/cpu,cpuacct/pod";
  write(memory + "/memory.limit_in_bytes", "9223372036854771712\n");
  write(memory + "/memory.usage_in_bytes", "100\n");
  write(memory + "/pod/memory.limit_in_bytes", std::to_string(1024 * kMiB));
  write(memory + "/pod/memory.usage_in_bytes", std::to_string(1000 * kMiB));
  write(memory + "/pod/memory.stat", "cache 3\ntotal_inactive_file " + std::to_string(100 * kMiB) + "\n");
  write(cpu + "/cpu.cfs_quota_us", "150000\n");
  write(cpu + "/cpu.cfs_period_us", "100000\n");
  const GroupLimits limits = group_limits(root_);
  EXPECT_EQ(limits.memory_bytes, 1024 * kMiB);
  EXPECT_EQ(limits.memory_available, 124 * kMiB);
  EXPECT_EQ(limits.cpus, 1.5);
  write(cpu + "/cpu.cfs_quota_us", "-1\n");
  EXPECT_FALSE(group_limits(root_).cpus);
}

TEST_F(MachineLimits, ThisMachineHasMemory) { EXPECT_GT(available_memory(), 16 * kMiB); }

}  // namespace
}  // namespace sluice
