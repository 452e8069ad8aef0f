// A step's input on the device: what the host decides, in one block that goes over in one copy. Owns the pinned block
// and its twin on the device.
//
//   pieces   attention takes a sequence's rows in pieces of a few query tokens, each seeing one position more than the
//            row before it; a prompt chunk is many pieces over the same pages
//   chunks   ranges of pieces whose partial results fit the workspace
//   padding  rows up to a captured graph's size: copies of row 0 that write nothing, so that they wake no other expert
#pragma once

#include <vector>

#include "sluice/batch.h"

#include "gpu/workspace.h"
#include "model/rope.h"

namespace sluice {

struct AttentionChunk {
  int32_t first_row = 0, num_rows = 0;
  int32_t first_piece = 0, num_pieces = 0;
  int32_t begins = 0;  // where its part of query_begin starts
};

struct GpuStep {
  int32_t rows = 0;     // padding included
  int32_t outputs = 0;  // rows whose hidden state is wanted
  int32_t pieces = 0, max_pages = 0, max_queries = 1;
  std::vector<AttentionChunk> chunks;

  // Of one block; on the device.
  int32_t* tokens = nullptr;       // [rows]
  float* cos_sin = nullptr;        // [rows, rope]
  int64_t* slots = nullptr;        // [rows] page * 64 + place, or -1
  int32_t* output_rows = nullptr;  // [outputs]
  int32_t* lengths = nullptr;      // [pieces]
  int32_t* query_begin = nullptr;  // [pieces + chunks] each chunk's from 0
  int32_t* pages = nullptr;        // [pieces, max_pages]
  int64_t bytes = 0;

  void carve(std::byte* block, int32_t rope_dim);
};

class StepStager {
 public:
  static Result<StepStager> create(Device& device, const ModelConfig& config, const StepLimits& limits);
  static int64_t device_bytes(const ModelConfig& config, const StepLimits& limits);

  // Copies the batch's input to the device. With `padded_rows` > 0, a batch of single tokens is padded to so many rows
  // and its pages to a power of two: steps of one (rows, max_pages) then differ in the block's contents alone.
  Result<GpuStep> stage(const StepBatch& batch, const Workspace& work, int32_t padded_rows);

 private:
  StepStager(Device& device, const ModelConfig& config, const StepLimits& limits)
      : device_(&device), rope_(config), limits_(limits), heads_(config.num_attention_heads) {}

  struct Piece {
    int32_t first_row, num_rows, length;
    const PageId* pages;
  };
  void cut(const StepBatch& batch, int32_t padded_rows);
  void plan_chunks(GpuStep& step, const Workspace& work) const;
  void fill(const StepBatch& batch, const GpuStep& host);

  Device* device_;
  RopeTable rope_;
  StepLimits limits_;
  int32_t heads_;
  PinnedBuffer host_;
  DeviceBuffer block_;
  std::vector<Piece> pieces_;
};

}  // namespace sluice
