// The weights of a Hugging Face directory as rows of f32, whatever they are on disk: memory-mapped safetensors (one
// file or many behind model.safetensors.index.json), BF16, F16, F32, FP8 with block scales, or codes of a ready-made
// quantised checkpoint (packed_tensor.h); or, without any file, seeded random values. Owns the mappings, converts nothing
// but to f32, knows no layer. Loading threads call it in parallel; reads are const. With tie_word_embeddings the head's
// name stands for the embedding.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sluice/status.h"
#include "sluice/tensor.h"
#include "sluice/weight_format.h"

#include "model/config.h"

namespace sluice {

// How a tensor may lie on disk.
enum class Storage : uint8_t {
  kFloat,     // F32, F16, BF16, or F8_E4M3 with its scales
  kFp4,       // kFloat, or I8 [rows, cols / 2]: two E2M1 codes a byte, low nibble first, and a scale for each 32 columns
  kTokenIds,  // I64 or I32: a table, no weights
};

// A tensor that the architecture needs; `shape` counts values, not bytes.
struct TensorSpec {
  std::string name;
  Shape shape;
  Storage storage = Storage::kFloat;
};

class Checkpoint {
 public:
  // Maps and validates all files: headers, offsets (no overlap, no hole, nothing beyond the end), dtypes, the index.
  // model.safetensors wins over an index, as in Hugging Face's loader. NOT_FOUND without either; DATA_LOSS for a file
  // that is damaged; INVALID_ARGUMENT for a malformed index.
  static Result<Checkpoint> open(const std::string& directory, const ModelConfig& config);

  // Every tensor that the architecture asks for exists, with values ~ N(0, 0.02) (norm weights: 1 + that) that are a
  // pure function of (seed, tensor name, element index); no order of reading changes them. They count as BF16, vectors
  // as F32: what a checkpoint keeps wide takes as much memory as that of a real one.
  static Checkpoint random(uint64_t seed, const ModelConfig& config);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  bool has(const std::string& name) const;

  // The format that holds the checkpoint's values: of a ready-made quantised one its own, otherwise f32 where the files
  // are F32 and bf16 for everything else.
  WeightFormat native_format() const;
  // Whether a ready-made quantised checkpoint holds this tensor as codes.
  bool is_packed(const std::string& name) const;

  // FAILED_PRECONDITION unless native_format() holds the codes of this matrix of `cols` inputs as they are: its groups
  // must lie inside those on disk. Precondition: expect() said ok.
  Status expect_exact(const std::string& name, int64_t cols) const;

  // FAILED_PRECONDITION naming file, tensor, expected and found unless the tensor exists with this shape and a float
  // dtype (FP8: also its scales, with shape [ceil(rows/block), ceil(cols/block)]; X.weight's are X.weight_scale_inv, or
  // X.scale in V4), or as codes, or whatever else its storage allows.
  Status expect(const std::string& name, const Shape& shape) const { return expect({name, shape}); }
  Status expect(const TensorSpec& spec) const;

  // Rows [row_begin, row_begin + num_rows) of a 2-d tensor, or elements of a 1-d one (cols = 1), widened to f32 and
  // multiplied by their block scales; out: [num_rows, cols]. Precondition: expect() said ok.
  void read_rows(const std::string& name, int64_t row_begin, int64_t num_rows, float* out) const;

  // The same of columns [col_begin, col_begin + num_cols) of a matrix of `cols`; out: [num_rows, out_stride], of which the
  // first num_cols of each row are written. Of plain floats no other byte of the file is touched.
  void read_block(const std::string& name, int64_t row_begin, int64_t num_rows, int64_t cols, int64_t col_begin,
                  int64_t num_cols, float* out, int64_t out_stride) const;

  // All values of a table of ids (Storage::kTokenIds), row by row; one that 32 bits cannot hold becomes -1. Random ones
  // are routed experts, all different within a row. Precondition: expect() said ok.
  std::vector<int32_t> read_ids(const std::string& name) const;

  // DType on disk, for `inspect`; F16 (that of their scales) for codes.
  DType dtype(const std::string& name) const;
  // All tensor names (files only).
  std::vector<std::string> names() const;
  int64_t file_bytes() const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// All tensors of the architecture but those of multi-token-prediction layers, in load order.
std::vector<TensorSpec> required_tensors(const ModelConfig& config);

}  // namespace sluice
