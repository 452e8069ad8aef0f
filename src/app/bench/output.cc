#include "app/bench/output.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "sluice/check.h"

namespace sluice {

namespace {

using Json = nlohmann::ordered_json;

// Numbers for people: four digits that say something, no more.
std::string short_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "-";
  if (!value.is_number_float()) return value.dump();
  const double number = value.get<double>();
  const int digits = std::abs(number) >= 1000 ? 0 : std::abs(number) >= 100 ? 1 : std::abs(number) >= 10 ? 2 : 3;
  return fmt::format("{:.{}f}", number, digits);
}

std::string csv_text(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.is_number_float() ? fmt::format("{:.6g}", value.get<double>()) : value.dump();
  const std::string text = value.get<std::string>();
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

void flatten_into(const Json& value, const std::string& path, std::vector<std::pair<std::string, Json>>& out) {
  if (!value.is_object()) {
    out.emplace_back(path, value);
    return;
  }
  for (const auto& [key, child] : value.items()) flatten_into(child, path.empty() ? key : path + "." + key, out);
}

}  // namespace

std::vector<std::pair<std::string, Json>> flatten(const Json& row) {
  std::vector<std::pair<std::string, Json>> leaves;
  flatten_into(row, "", leaves);
  return leaves;
}

void BenchOutput::add_to(CLI::App& app) {
  app.add_flag("--json", json_, "print one JSON object a line instead of a table");
  app.add_option("--csv", csv_file_, "write the rows to this file, too")->type_name("FILE");
}

Status BenchOutput::open() {
  if (csv_file_.empty()) return {};
  csv_.open(csv_file_);
  if (!csv_) return not_found("csv: {} cannot be written", csv_file_);
  return {};
}

void BenchOutput::print(const std::vector<std::pair<std::string, Json>>& leaves) {
  std::string header, line;
  for (const auto& [column, value] : leaves) {
    if (!table_.empty() && std::find(table_.begin(), table_.end(), column) == table_.end()) continue;
    const size_t width = std::max<size_t>(column.size(), 7);
    header += fmt::format("{:>{}}  ", column, width);
    line += fmt::format("{:>{}}  ", short_text(value), width);
  }
  if (columns_.empty()) std::printf("%s\n", header.c_str());
  std::printf("%s\n", line.c_str());
}

void BenchOutput::row(const Json& row) {
  const auto leaves = flatten(row);
  if (json_) {
    std::printf("%s\n", row.dump().c_str());
  } else {
    print(leaves);
  }
  std::fflush(stdout);
  if (columns_.empty()) {
    for (const auto& [column, value] : leaves) columns_.push_back(column);
    if (csv_.is_open()) csv_ << fmt::format("{}\n", fmt::join(columns_, ","));
  }
  if (!csv_.is_open()) return;
  SLUICE_CHECK(leaves.size() == columns_.size(), "a row of {} values under {} columns", leaves.size(), columns_.size());
  std::string line;
  for (const auto& [column, value] : leaves) line += (line.empty() ? "" : ",") + csv_text(value);
  csv_ << line << std::endl;
}

}  // namespace sluice
