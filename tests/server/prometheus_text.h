// A strict reader of Prometheus' text format 0.0.4, written from its description: every sample belongs to a family that
// was declared once before it, names and labels are well formed, histograms add up. Fails the test at what is wrong.
#pragma once

#include <gtest/gtest.h>

#include <charconv>
#include <map>
#include <set>
#include <sstream>
#include <string>

namespace sluice {

struct PrometheusFamily {
  std::string type, help;
  std::map<std::string, double> samples;  // by what stands before the value: `name{label="x"}`
};

class PrometheusText {
 public:
  explicit PrometheusText(const std::string& text) {
    EXPECT_TRUE(text.ends_with("\n")) << "the last line has no end";
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) read_line(line);
    for (const auto& [name, family] : families_) {
      EXPECT_FALSE(family.help.empty()) << name << " has no help";
      EXPECT_FALSE(family.type.empty()) << name << " has no type";
      if (family.type == "histogram") check_histogram(name, family);
    }
  }

  const std::map<std::string, PrometheusFamily>& families() const { return families_; }
  bool has(const std::string& sample) const { return samples_.contains(sample); }
  double value(const std::string& sample) const {
    const auto place = samples_.find(sample);
    EXPECT_TRUE(place != samples_.end()) << "no sample " << sample;
    return place == samples_.end() ? -1 : place->second;
  }

 private:
  static bool is_name(const std::string& text) {
    const auto good = [](char c, bool first) {
      return c == '_' || c == ':' || std::isalpha(static_cast<unsigned char>(c)) ||
             (!first && std::isdigit(static_cast<unsigned char>(c)));
    };
    for (size_t i = 0; i < text.size(); ++i)
      if (!good(text[i], i == 0)) return false;
    return !text.empty();
  }

  void read_line(const std::string& line) {
    if (line.starts_with("# HELP ") || line.starts_with("# TYPE ")) {
      const size_t end = line.find(' ', 7);
      ASSERT_NE(end, std::string::npos) << line;
      const std::string name = line.substr(7, end - 7);
      EXPECT_TRUE(is_name(name)) << line;
      PrometheusFamily& family = families_[name];
      std::string& place = line[2] == 'H' ? family.help : family.type;
      EXPECT_TRUE(place.empty()) << "declared twice: " << line;
      EXPECT_TRUE(family.samples.empty()) << "declared after its samples: " << line;
      place = line.substr(end + 1);
      current_ = name;
      return;
    }
    ASSERT_FALSE(line.starts_with("#")) << line;
    read_sample(line);
  }

  void read_sample(const std::string& line) {
    size_t end = line.find_first_of("{ ");
    ASSERT_NE(end, std::string::npos) << line;
    const std::string name = line.substr(0, end);
    EXPECT_TRUE(is_name(name)) << line;
    if (line[end] == '{') end = read_labels(line, end);
    ASSERT_LT(end, line.size()) << line;
    ASSERT_EQ(line[end], ' ') << line;
    const std::string number = line.substr(end + 1);
    double value = 0;
    const auto [stop, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    EXPECT_TRUE(error == std::errc{} && stop == number.data() + number.size()) << line;
    PrometheusFamily& family = families_[current_];
    const std::string suffix = name.size() >= current_.size() ? name.substr(current_.size()) : "?";
    const bool belongs = name.starts_with(current_) && (suffix.empty() != (family.type == "histogram")) &&
                         std::set<std::string>{"", "_bucket", "_sum", "_count"}.contains(suffix);
    EXPECT_TRUE(belongs) << line << " stands below " << current_;
    if (family.type == "counter") {
      EXPECT_TRUE(name.ends_with("_total")) << line;
      EXPECT_GE(value, 0) << line;
    }
    EXPECT_TRUE(samples_.emplace(line.substr(0, end), value).second) << "twice: " << line;
    family.samples.emplace(line.substr(0, end), value);
  }

  // From the brace to behind the closing one.
  size_t read_labels(const std::string& line, size_t at) {
    std::set<std::string> seen;
    ++at;
    while (at < line.size() && line[at] != '}') {
      const size_t equals = line.find("=\"", at);
      if (equals == std::string::npos) break;
      const std::string label = line.substr(at, equals - at);
      EXPECT_TRUE(is_name(label) && label.find(':') == std::string::npos) << line;
      EXPECT_TRUE(seen.insert(label).second) << "label twice: " << line;
      at = equals + 2;
      while (at < line.size() && line[at] != '"') at += line[at] == '\\' ? 2 : 1;
      ++at;
      if (at < line.size() && line[at] == ',') ++at;
    }
    EXPECT_TRUE(at < line.size() && line[at] == '}') << line;
    return at + 1;
  }

  // Of a histogram with one set of labels: buckets ascend, the last is +Inf and equals the count.
  static void check_histogram(const std::string& name, const PrometheusFamily& family) {
    double infinite = -1, count = -2, largest = 0;
    int sums = 0;
    for (const auto& [sample, value] : family.samples) {
      if (sample.starts_with(name + "_bucket")) {
        largest = std::max(largest, value);
        if (sample.find("le=\"+Inf\"") != std::string::npos) infinite = value;
      }
      if (sample.starts_with(name + "_count")) count = value;
      if (sample.starts_with(name + "_sum")) ++sums;
    }
    EXPECT_EQ(infinite, count) << name;
    EXPECT_EQ(largest, infinite) << name;
    EXPECT_EQ(sums, 1) << name;
  }

  std::map<std::string, PrometheusFamily> families_;
  std::map<std::string, double> samples_;
  std::string current_;
};

}  // namespace sluice
