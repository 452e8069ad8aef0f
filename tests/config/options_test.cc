// Where options come from, and what is said of wrong ones.
#include "config/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "tests/support/source_file.h"

namespace sluice {
namespace {

using testing::HasSubstr;

class OptionsFile : public testing::Test {
 protected:
  std::string write(const std::string& text) {
    const auto path = std::filesystem::path(testing::TempDir()) / "sluice_options_test.yaml";
    std::ofstream(path) << text;
    return path.string();
  }
};

TEST_F(OptionsFile, DefaultYamlNamesEveryKeyWithItsDefault) {
  const std::string file = source_file("configs/default.yaml");
  Options changed;  // every field away from its default, where the table can say so
  changed.threads = 77;
  changed.grpc = "x:1";
  changed.cache_enabled = false;
  ASSERT_TRUE(apply_yaml(file, changed).ok()) << apply_yaml(file, changed).message();
  const Options defaults;
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  for (const OptionSpec& spec : option_table()) {
    EXPECT_EQ(spec.get(changed), spec.get(defaults)) << spec.key;
    const std::string key = spec.key;
    EXPECT_THAT(text, HasSubstr(key.substr(key.rfind('.') + 1) + ":")) << "configs/default.yaml does not name " << key;
  }
}

TEST_F(OptionsFile, ScenariosNameOnlyOptionsThatExist) {
  int num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source_file("configs"))) {
    if (entry.path().extension() != ".yaml") continue;
    Options options;
    const Status status = apply_yaml(entry.path().string(), options);
    EXPECT_TRUE(status.ok()) << status.to_string();
    ++num_files;
  }
  EXPECT_GE(num_files, 4);
}

TEST_F(OptionsFile, NestsAtDots) {
  Options options;
  ASSERT_TRUE(apply_yaml(write("threads: 3\ncache:\n  memory_mib: 64\n  enabled: false\n"), options).ok());
  EXPECT_EQ(options.threads, 3);
  EXPECT_EQ(options.cache_memory_mib, 64);
  EXPECT_FALSE(options.cache_enabled);
}

TEST_F(OptionsFile, ErrorsNameFileLineKeyExpectedAndFound) {
  const std::pair<const char*, const char*> bad[] = {
      {"threads: 1\ncahce:\n  enabled: true\n", ":3: cache"},
      {"nonsense: 1\n", ":1: nonsense: unknown key"},
      {"threads: many\n", "threads: expected a number in [0, 1024], found \"many\""},
      {"threads: 4000\n", "threads: expected a number"},
      {"threads: [1, 2]\n", "threads: expected a single value"},
      {"cache:\n  enabled: 1\n", ":2: cache.enabled: expected true or false, found \"1\""},
      {"weights: int3\n", "weights: weights: expected one of auto, f32"},
      {"log_level: loud\n", "expected one of trace"},
      {"- 1\n", "expected keys and values"},
      {"a: [\n", ":"},
  };
  for (const auto& [text, expected] : bad) {
    Options options;
    const Status status = apply_yaml(write(text), options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    if (std::string(text).find("cahce") == std::string::npos) {
      EXPECT_THAT(status.message(), HasSubstr(expected)) << text;
    } else {
      EXPECT_THAT(status.message(), HasSubstr("cahce.enabled: unknown key"));
    }
  }
  Options options;
  EXPECT_EQ(apply_yaml("/nowhere/x.yaml", options).code(), StatusCode::kNotFound);
}

TEST_F(OptionsFile, ExpertsAreOnTheDeviceOrWithTheHost) {
  Options options;
  EXPECT_EQ(options.experts_on, "device");
  for (const char* value : {"auto", "cpu", "cpu:12", "device"}) {
    ASSERT_TRUE(apply_yaml(write(fmt::format("experts_on: {}\n", value)), options).ok());
    EXPECT_EQ(options.experts_on, value);
  }
  EXPECT_THAT(apply_yaml(write("experts_on: gpu\n"), options).message(),
              HasSubstr("experts_on: expected device, cpu, cpu:N or auto, found \"gpu\""));
  for (const char* value : {"cpu:", "cpu:0", "cpu:x", "cpu:3 "})
    EXPECT_THAT(apply_yaml(write(fmt::format("experts_on: \"{}\"\n", value)), options).message(),
                HasSubstr("layers behind \"cpu:\": expected a number in [1, 1024]"))
        << value;
  EXPECT_EQ(options.experts_on, "device");
}

TEST(OptionsEnvironment, IsReadAndNamedInErrors) {
  Options options;
  setenv("SLUICE_CACHE_MEMORY_MIB", "128", 1);
  EXPECT_TRUE(apply_environment(options).ok());
  EXPECT_EQ(options.cache_memory_mib, 128);
  setenv("SLUICE_CACHE_MEMORY_MIB", "-1", 1);
  EXPECT_THAT(apply_environment(options).message(), HasSubstr("environment: SLUICE_CACHE_MEMORY_MIB"));
  unsetenv("SLUICE_CACHE_MEMORY_MIB");
}

TEST(OptionTable, KeysFlagsAndVariablesAreUnique) {
  std::set<std::string> seen;
  for (const OptionSpec& spec : option_table()) {
    EXPECT_TRUE(seen.insert(spec.flag()).second) << spec.key;
    EXPECT_TRUE(seen.insert(spec.variable()).second) << spec.key;
    EXPECT_GT(std::string(spec.help).size(), 20u) << spec.key;
  }
}

}  // namespace
}  // namespace sluice
