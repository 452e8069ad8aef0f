// What the inputs of a model's matrices look like on a text, for `sluice quantize --calibrate`. Runs the unquantised
// model over the text, once for each layer, so that only one layer's statistics are in memory. Owns the model and them.
// Called from one thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/kv_memory.h"
#include "model/deepseek.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

class Calibration {
 public:
  // Loads the model in its checkpoint's own format. `directory` holds the tokenizer; `device` as in the options.
  static Result<std::unique_ptr<Calibration>> open(const std::string& directory, const ModelConfig& config,
                                                   const Checkpoint& checkpoint, const std::string& device,
                                                   ThreadTeam& team, const std::string& text);
  ~Calibration();

  // The factor for this matrix (sluice/quantize.h); empty if no token came to it. Cheap as long as the asked for
  // matrices come layer by layer.
  std::vector<float> factor(const std::string& tensor, int64_t cols);

 private:
  struct Context;  // an OpContext whose products remember their inputs

  Calibration(const Backend& backend, ThreadTeam& team);
  void run_text();

  std::unique_ptr<Context> context_;
  Scratch scratch_;
  Backend watching_;  // the backend, its products replaced by ones that look at their inputs first
  std::unique_ptr<DeepSeekModel> model_;
  std::unique_ptr<KvMemory> cache_;
  std::vector<std::vector<TokenId>> windows_;
  std::string stage_;  // "model.layers.3." whose statistics are held, or "" for the head's
};

}  // namespace sluice
