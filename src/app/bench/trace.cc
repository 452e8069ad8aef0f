#include "app/bench/trace.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

namespace sluice {

namespace {

constexpr int64_t kMooncakeBlock = 512;  // tokens

struct TraceRow {
  double arrival = 0;                // seconds, from any origin
  int64_t input = 0, output = 0;     // tokens
  std::vector<int64_t> block_ids{};  // of the input; empty: unknown
};

Result<TraceRow> parse_mooncake(const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  TraceRow row;
  try {
    row.arrival = json.at("timestamp").get<double>() / 1e3;
    row.input = json.at("input_length").get<int64_t>();
    row.output = json.at("output_length").get<int64_t>();
    row.block_ids = json.at("hash_ids").get<std::vector<int64_t>>();
  } catch (const nlohmann::json::exception&) {
    return invalid_argument("expected an object with timestamp, input_length, output_length and hash_ids, found '{}'",
                            line.substr(0, 80));
  }
  if (row.input < 1 || row.output < 0 || static_cast<int64_t>(row.block_ids.size()) * kMooncakeBlock < row.input)
    return invalid_argument("expected hash_ids for each {} of the input's {} tokens, found {} ids", kMooncakeBlock,
                            row.input, row.block_ids.size());
  return row;
}

Result<TraceRow> parse_azure(const std::string& line) {
  tm time{};
  double seconds_of_minute = 0;
  long long input = 0, output = 0;
  if (std::sscanf(line.c_str(), "%d-%d-%d %d:%d:%lf,%lld,%lld", &time.tm_year, &time.tm_mon, &time.tm_mday,
                  &time.tm_hour, &time.tm_min, &seconds_of_minute, &input, &output) != 8 ||
      input < 1 || output < 0)
    return invalid_argument("expected 'YYYY-MM-DD HH:MM:SS.S,ContextTokens,GeneratedTokens', found '{}'",
                            line.substr(0, 80));
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  return TraceRow{.arrival = static_cast<double>(timegm(&time)) + seconds_of_minute, .input = input, .output = output};
}

// The same tokens for the same block, of a vocabulary of any size (splitmix64 of block and place).
TokenId token_of(uint64_t block, uint64_t place, int32_t vocab_size) {
  uint64_t bits = block * 0x9E3779B97F4A7C15 + place * 0xD1B54A32D192ED03 + 1;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
  return static_cast<TokenId>((bits ^ (bits >> 31)) % static_cast<uint64_t>(vocab_size));
}

// A row without block ids gets blocks that no other row has; another seed makes other tokens of the same blocks.
Turn turn_of(const TraceRow& row, size_t row_idx, const TraceOptions& options) {
  const auto scaled = [&](int64_t tokens) {
    return std::max<int64_t>(1, std::llround(static_cast<double>(tokens) * options.scale));
  };
  const int64_t block_tokens = scaled(kMooncakeBlock);
  const int64_t output = std::min(scaled(row.output), options.context_length / 2);
  const int64_t input = std::min(scaled(row.input), options.context_length - output);
  Turn turn{.tokens = {}, .output_tokens = static_cast<int32_t>(output)};
  for (int64_t i = 0; i < input; ++i) {
    const auto block_idx = static_cast<size_t>(i / block_tokens);
    const uint64_t block = block_idx < row.block_ids.size() ? static_cast<uint64_t>(row.block_ids[block_idx])
                                                            : (uint64_t{row_idx} << 20) + block_idx;
    turn.tokens.push_back(
        token_of((options.seed << 48) + block, static_cast<uint64_t>(i % block_tokens), options.vocab_size));
  }
  return turn;
}

}  // namespace

Result<std::vector<Session>> read_trace(const std::string& file, const TraceOptions& options) {
  const bool is_csv = file.ends_with(".csv");
  if (!is_csv && !file.ends_with(".jsonl"))
    return invalid_argument("trace: expected a .jsonl (Mooncake) or .csv (Azure) file, found '{}'", file);
  std::ifstream stream(file);
  if (!stream) return not_found("trace: {} cannot be read", file);
  std::vector<Session> sessions;
  double origin = 0;
  int line_number = 0;
  for (std::string line; std::getline(stream, line) && std::ssize(sessions) < options.requests;) {
    ++line_number;
    if (line.find_first_not_of(" \r") == std::string::npos || (is_csv && line_number == 1)) continue;  // 1: the header
    Result<TraceRow> row = is_csv ? parse_azure(line) : parse_mooncake(line);
    if (!row.ok()) return row.status().with_context(fmt::format("{}:{}", file, line_number));
    if (sessions.empty()) origin = row->arrival;
    sessions.push_back({.arrival = row->arrival - origin, .turns = {turn_of(*row, sessions.size(), options)}});
  }
  if (sessions.empty()) return invalid_argument("trace: {} holds no requests", file);
  return sessions;
}

}  // namespace sluice
