// Writes a checkpoint in 4 or 8 bits: a Hugging Face directory in the pack-quantized layout of compressed-tensors, which
// other engines read and ours takes code by code. Owns the choice of what is quantised and the plan of files; the codes
// come from sluice/quantize.h, one file's bytes from shard.h. Memory: a few MB a thread, whatever the model.
//
//   quantised   every matrix but those below, each in the group size that divides its width
//   BF16        embedding, routers, kv_b_proj (attention uses it in pieces, never as a product by tokens; our loader
//               keeps it wide for every format), norms, the head if asked for, and matrices that not even groups of 32
//               divide
//   F32         the routers' choice biases, where they are F32
//
// Multi-token-prediction layers are left out, as in everything here.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sluice/thread_team.h"
#include "sluice/weight_format.h"

#include "model/checkpoint.h"

namespace sluice {

struct QuantizeOptions {
  WeightFormat weights = WeightFormat::kInt4G32;  // any quantised one
  bool keep_head = false;                         // leave lm_head in BF16
  int64_t shard_bytes = int64_t{2} << 30;         // a file holds at least one tensor
  std::string made_from;  // tells this source with these options from others; printable, without quotes
  // How rounding errors of this matrix are made good (sluice/quantize.h), or empty: not at all.
  std::function<std::vector<float>(const TensorSpec& tensor)> factor;
  // Weights written or found, then verified, of twice their number; from the calling thread.
  std::function<void(int64_t done, int64_t total)> progress;
};

struct QuantizeReport {
  int64_t bytes_in = 0;             // of the source's safetensors; of random weights as BF16
  int64_t bytes_out = 0;            // of the written safetensors
  int64_t quantized_bytes_in = 0;   // what was quantised, as BF16
  int64_t quantized_bytes_out = 0;  // the same as codes, scales and zero points
  double relative_error = 0;        // sqrt(sum (w - w')^2 / sum w^2) over what was quantised, read back from the files
  int32_t shards = 0;
  int32_t shards_kept = 0;  // whole ones of an earlier run
};

// `config_json`: the source's config.json, which goes along with a new quantization_config. Whole shards of an earlier
// run are kept, half ones are written again; config.json comes last, so a directory that has one is complete.
// Everything written is read back and compared with the source: DATA_LOSS if it is not what was meant.
Result<QuantizeReport> quantize_checkpoint(const Checkpoint& source, const ModelConfig& config,
                                           const std::string& config_json, const std::string& output, ThreadTeam& team,
                                           const QuantizeOptions& options);

}  // namespace sluice
