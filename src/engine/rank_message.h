// What rank 0 tells the other ranks: the next step as rows, a sign of life, the wish for the times that they noted, or
// the end. They need no scheduler of their own: a step says which rows to compute, where the pages of their sequences
// are, and which logits somebody waits for. Owns the bytes on the wire (the ranks are one binary: values as they lie in
// memory) and checks that every part is there; what rank 0 says of pages and rows is trusted as its own would be.
//
//   | length (u64) | bytes ... |   the first kFirstBytes in one broadcast, which a decode step fits into; the rest,
//                                if there is any, in a second
#pragma once

#include <cstdint>
#include <vector>

#include "sluice/batch.h"
#include "sluice/communicator.h"
#include "sluice/plan.h"

namespace sluice {

enum class RankMessage : uint8_t { kStep, kSignOfLife, kTimes, kEnd };

// One row of logits that somebody asked for.
struct LogitsWanted {
  int32_t output = -1;  // which of the batch's output rows it is made from; -1: a hidden state that comes with the step
  bool whole = true;    // rank 0 needs all logits; else the largest one's token
};

// Rank 0's side. Spans are the step's own.
struct StepToSend {
  const StepBatch* batch = nullptr;
  std::span<const PageId> filled;          // pages that got their bytes from a lower tier
  std::vector<const std::byte*> contents;  // of these, bytes_per_page each
  std::span<const PageCopy> copies;
  std::span<const LogitsWanted> logits;
  std::vector<const float*> hidden_states;  // of the logits without output row, in order; hidden_size values each
  int64_t hidden_size = 0;
};
std::vector<std::byte> encode(const StepToSend& step);
std::vector<std::byte> encode(RankMessage message);  // the others

// The other ranks' side: owns what the batch points into.
struct ReceivedStep {
  std::vector<PageId> filled;
  std::vector<std::byte> contents;
  std::vector<PageCopy> copies;
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<SequenceSpan> prompt_spans, generated_spans;
  std::vector<PageId> pages;  // of all spans
  std::vector<int32_t> output_rows;
  std::vector<LogitsWanted> logits;
  std::vector<float> hidden_states;

  StepBatch batch(KvPages kv) const;
};
// INTERNAL if the bytes are no message of this build.
Result<RankMessage> kind_of(std::span<const std::byte> message);
Result<ReceivedStep> decode_step(std::span<const std::byte> message);

Status send_message(Communicator& ranks, std::span<const std::byte> message);  // rank 0
Result<std::vector<std::byte>> receive_message(Communicator& ranks);           // the others

}  // namespace sluice
