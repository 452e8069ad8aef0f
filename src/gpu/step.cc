#include "gpu/step.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace sluice {

namespace {

int32_t pages_of(int32_t positions) { return (positions + kPageTokens - 1) / kPageTokens; }

}  // namespace

void GpuStep::carve(std::byte* block, int32_t rope_dim) {
  DeviceCarver carver(block);
  carver.carve(tokens, rows);
  carver.carve(cos_sin, int64_t{rows} * rope_dim);
  carver.carve(slots, rows);
  carver.carve(output_rows, outputs);
  carver.carve(lengths, pieces);
  carver.carve(query_begin, pieces + static_cast<int64_t>(chunks.size()));
  carver.carve(pages, int64_t{pieces} * max_pages);
  bytes = carver.used();
}

int64_t StepStager::device_bytes(const ModelConfig& config, const StepLimits& limits) {
  GpuStep largest;
  largest.rows = largest.outputs = largest.pieces = limits.max_rows;
  largest.max_pages = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(pages_of(limits.context_length))));
  largest.chunks.resize(static_cast<size_t>(limits.max_rows));
  largest.carve(nullptr, config.qk_rope_head_dim);
  return largest.bytes;
}

Result<StepStager> StepStager::create(Device& device, const ModelConfig& config, const StepLimits& limits) {
  StepStager stager(device, config, limits);
  const int64_t bytes = device_bytes(config, limits);
  SLUICE_ASSIGN_OR_RETURN(stager.host_, PinnedBuffer::allocate(device, bytes));
  SLUICE_ASSIGN_OR_RETURN(stager.block_, DeviceBuffer::allocate(device, bytes));
  return stager;
}

// Pieces in the order of their rows, which no gap separates.
void StepStager::cut(const StepBatch& batch, int32_t padded_rows) {
  pieces_.clear();
  const int32_t queries = queries_of_piece(heads_);
  for (const std::span<const SequenceSpan> spans : {batch.prompt_spans, batch.generated_spans})
    for (const SequenceSpan& span : spans)
      for (int32_t begin = span.position_begin; begin < span.position_end; begin += queries) {
        const int32_t end = std::min(begin + queries, span.position_end);
        pieces_.push_back({span.row_begin + begin - span.position_begin, end - begin, end, span.pages});
      }
  std::sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) { return a.first_row < b.first_row; });
  for (auto row = static_cast<int32_t>(batch.tokens.size()); row < padded_rows; ++row)
    pieces_.push_back({row, 1, pieces_[0].length, pieces_[0].pages});
}

void StepStager::plan_chunks(GpuStep& step, const Workspace& work) const {
  const int64_t splits = (step.max_pages + work.mla.split_pages - 1) / work.mla.split_pages;
  const int64_t most_rows = work.attention_rows_splits / splits;
  SLUICE_CHECK(most_rows >= step.max_queries, "room for {} rows of {} splits, a piece has {}", most_rows, splits,
               step.max_queries);
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (step.chunks.empty() || step.chunks.back().num_rows + pieces_[i].num_rows > most_rows)
      step.chunks.push_back({.first_row = pieces_[i].first_row,
                             .first_piece = static_cast<int32_t>(i),
                             .begins = static_cast<int32_t>(i + step.chunks.size())});
    step.chunks.back().num_rows += pieces_[i].num_rows;
    ++step.chunks.back().num_pieces;
  }
}

void StepStager::fill(const StepBatch& batch, const GpuStep& host) {
  const auto rows = static_cast<int32_t>(batch.tokens.size());
  std::copy(batch.tokens.begin(), batch.tokens.end(), host.tokens);
  std::fill(host.tokens + rows, host.tokens + host.rows, batch.tokens[0]);
  rope_.fill(batch.positions, host.cos_sin);
  for (int32_t row = rows; row < host.rows; ++row)
    std::copy_n(host.cos_sin, rope_.dim(), host.cos_sin + int64_t{row} * rope_.dim());
  std::copy(batch.output_rows.begin(), batch.output_rows.end(), host.output_rows);
  for (auto i = static_cast<int32_t>(batch.output_rows.size()); i < host.outputs; ++i) host.output_rows[i] = i;

  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    host.lengths[i] = piece.length;
    for (int32_t j = 0; j < piece.num_rows; ++j) {
      const int32_t row = piece.first_row + j, position = piece.length - piece.num_rows + j;
      host.slots[row] =
          row < rows ? int64_t{value(piece.pages[position / kPageTokens])} * kPageTokens + position % kPageTokens : -1;
    }
    int32_t* pages = host.pages + static_cast<int64_t>(i) * host.max_pages;
    const int32_t count = pages_of(piece.length);
    for (int32_t page = 0; page < count; ++page) pages[page] = value(piece.pages[page]);
    std::fill(pages + count, pages + host.max_pages, 0);
  }
  for (const AttentionChunk& chunk : host.chunks) {
    int32_t* begin = host.query_begin + chunk.begins;
    *begin = 0;
    for (int32_t i = 0; i < chunk.num_pieces; ++i)
      begin[i + 1] = begin[i] + pieces_[static_cast<size_t>(chunk.first_piece + i)].num_rows;
  }
}

Result<GpuStep> StepStager::stage(const StepBatch& batch, const Workspace& work, int32_t padded_rows) {
  const auto rows = static_cast<int32_t>(batch.tokens.size());
  cut(batch, padded_rows);
  GpuStep step;
  step.rows = std::max(rows, padded_rows);
  SLUICE_CHECK(step.rows <= limits_.max_rows, "rows={} max={}", step.rows, limits_.max_rows);
  step.outputs = padded_rows > 0 ? padded_rows : static_cast<int32_t>(batch.output_rows.size());
  step.pieces = static_cast<int32_t>(pieces_.size());
  for (const Piece& piece : pieces_) {
    step.max_pages = std::max(step.max_pages, pages_of(piece.length));
    step.max_queries = std::max(step.max_queries, piece.num_rows);
  }
  if (padded_rows > 0) step.max_pages = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(step.max_pages)));
  plan_chunks(step, work);

  GpuStep host = step;
  host.carve(host_.data(), rope_.dim());
  SLUICE_CHECK(host.bytes <= host_.bytes(), "bytes={} room={}", host.bytes, host_.bytes());
  fill(batch, host);
  step.carve(block_.data(), rope_.dim());
  SLUICE_RETURN_IF_ERROR(device_->copy_in(block_.data(), host_.data(), step.bytes));
  return step;
}

}  // namespace sluice
