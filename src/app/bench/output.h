// The rows of a measurement, as they come: a table for people or JSON lines (--json), and a CSV file on request. Owns
// the flags and the open file. One thread.
#pragma once

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sluice/status.h"

namespace sluice {

class BenchOutput {
 public:
  // `table`: the columns that people see; empty for all. JSON and CSV always hold everything.
  explicit BenchOutput(std::vector<std::string> table = {}) : table_(std::move(table)) {}

  void add_to(CLI::App& app);
  // Opens the CSV file if one is wanted. NOT_FOUND names it.
  Status open();
  // Nested objects become columns "ttft_ms.p50" in table and CSV. The first row decides the columns.
  void row(const nlohmann::ordered_json& row);

 private:
  void print(const std::vector<std::pair<std::string, nlohmann::ordered_json>>& leaves);

  const std::vector<std::string> table_;
  std::string csv_file_;
  bool json_ = false;
  std::ofstream csv_;
  std::vector<std::string> columns_;  // of table and CSV, as the first row has them
};

// "a.b" -> value of every leaf, in order.
std::vector<std::pair<std::string, nlohmann::ordered_json>> flatten(const nlohmann::ordered_json& row);

}  // namespace sluice
