// A small world for attention tests: sequences whose latents, queries and pages are pure functions of a seed, from
// which any batch of (sequence, positions) can be attended on any backend, in either form.
//
//   pool:  pages of all sequences in shuffled order, each inside a stride that another layer shares; whatever the call
//          may not read (positions at or beyond position_end, pages of sequences that are not in it, the other layer)
//          holds NaNs, or, with `future`, the sequence's own later entries
//   out:   NaN before the call, guards around, and a foreign row between the spans that must stay
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sluice/latent_codes.h"
#include "sluice/quantize.h"

#include "tests/kernels/kernel_test.h"

namespace sluice {

struct AttentionShape {
  int32_t kv_lora_rank, rope_dim, nope_dim, v_dim, heads;
  WeightFormat weights = WeightFormat::kF32;
  DType cache = DType::kF32;
  WeightFormat absorbed = WeightFormat::kAuto;  // of k_up_t and v_up in the absorbed form; auto: as `weights`

  WeightFormat absorbed_weights() const { return absorbed == WeightFormat::kAuto ? weights : absorbed; }
  int64_t width() const { return kv_lora_rank + rope_dim; }
  int64_t q_dim() const { return nope_dim + rope_dim; }
  int64_t out_row() const { return int64_t{heads} * v_dim; }
  std::string text() const {
    return fmt::format("latent {} rope {} nope {} v {} heads {} {}/{} cache {}", kv_lora_rank, rope_dim, nope_dim,
                       v_dim, heads, name(weights), name(absorbed_weights()), name(cache));
  }
};

enum class Form { kExpanded, kAbsorbed };

// Positions [begin, end) of one sequence.
struct Piece {
  int32_t sequence, begin, end;
};

class LatentCase {
 public:
  // Entries, queries have deviation 1 and weights 1 / sqrt(inputs), so that keys, values and (scaled) scores have about
  // deviation 1 too: what the tolerances below count with.
  LatentCase(const AttentionShape& shape, std::vector<int32_t> lengths) : shape_(shape), lengths_(std::move(lengths)) {
    const double deviation = 1 / std::sqrt(static_cast<double>(shape.kv_lora_rank));
    for (int32_t head = 0; head < shape.heads; ++head) {
      const auto seed = static_cast<uint64_t>(head);
      k_up_.push_back(random_values(int64_t{shape.nope_dim} * shape.kv_lora_rank, 1000 + seed, deviation));
      v_up_.push_back(random_values(int64_t{shape.v_dim} * shape.kv_lora_rank, 2000 + seed, deviation));
      std::vector<float> transposed(k_up_.back().size());
      for (int32_t i = 0; i < shape.nope_dim; ++i)
        for (int32_t j = 0; j < shape.kv_lora_rank; ++j)
          transposed[static_cast<size_t>(j * shape.nope_dim + i)] =
              k_up_.back()[static_cast<size_t>(i * shape.kv_lora_rank + j)];
      k_up_t_.push_back(std::move(transposed));
    }
    int32_t num_pages = 1;  // one that nobody owns
    for (int32_t length : lengths_) num_pages += (length + kPageTokens - 1) / kPageTokens;
    const std::vector<int32_t> order = shuffled(num_pages, 17);
    size_t next = 0;
    for (int32_t length : lengths_) {
      pages_.emplace_back();
      for (int32_t begin = 0; begin < length; begin += kPageTokens) pages_.back().push_back(PageId{order[next++]});
    }
    num_pages_ = num_pages;
  }

  const AttentionShape& shape() const { return shape_; }
  int32_t length(int32_t sequence) const { return lengths_[static_cast<size_t>(sequence)]; }

  // Outputs of the pieces' rows, in order: [rows, heads * v_dim].
  std::vector<float> attend(const Backend& backend, Form form, const std::vector<Piece>& pieces, OpContext& context,
                            bool future = false) {
    const std::vector<std::byte> pool = make_pool(pieces, future);
    std::vector<SequenceSpan> spans;
    std::vector<std::vector<PageId>> covered;  // exactly the pages of [0, position_end): more must not be read
    covered.reserve(pieces.size());
    int32_t rows = 1;
    for (const Piece& piece : pieces) {
      const auto& pages = pages_[static_cast<size_t>(piece.sequence)];
      covered.emplace_back(pages.begin(), pages.begin() + (piece.end + kPageTokens - 1) / kPageTokens);
      spans.push_back({rows, piece.begin, piece.end, covered.back().data()});
      rows += piece.end - piece.begin + 1;
    }
    const int64_t q_row = shape_.heads * shape_.q_dim();
    std::vector<float> q(static_cast<size_t>(rows * q_row), std::numeric_limits<float>::quiet_NaN());
    for (size_t i = 0; i < pieces.size(); ++i)
      for (int32_t position = pieces[i].begin; position < pieces[i].end; ++position)
        for (int64_t j = 0; j < q_row; ++j)
          q[static_cast<size_t>((spans[i].row_begin + position - pieces[i].begin) * q_row + j)] =
              value_at(query_seed(pieces[i].sequence), position * q_row + j);
    Guarded<float> out(rows * shape_.out_row());
    const Weights& weights = weights_of(backend);
    const LatentAttentionArgs args{
        .q = q.data(),
        .out = out.data(),
        .sequences = spans,
        .cache = {const_cast<std::byte*>(pool.data()) + layer_bytes(), 2 * layer_bytes(), shape_.cache},
        .heads = shape_.heads,
        .nope_dim = shape_.nope_dim,
        .rope_dim = shape_.rope_dim,
        .v_dim = shape_.v_dim,
        .kv_lora_rank = shape_.kv_lora_rank,
        .scale = scale(),
        .k_up = form == Form::kExpanded ? weights.k_up : std::span<const Weight>{},
        .k_up_t = form == Form::kAbsorbed ? weights.k_up_t : std::span<const Weight>{},
        .v_up = form == Form::kExpanded ? weights.v_up : weights.v_up_absorbed};
    (form == Form::kExpanded ? backend.latent_attention_expanded : backend.latent_attention_absorbed)(args, context);
    return take_rows(backend, spans, rows, out);
  }

  float scale() const { return 1 / std::sqrt(static_cast<float>(shape_.q_dim())); }

 private:
  struct Weights {
    std::vector<std::unique_ptr<PackedWeight>> owners;
    std::vector<Weight> k_up, k_up_t, v_up, v_up_absorbed;
  };

  static uint64_t query_seed(int32_t sequence) { return 3000 + static_cast<uint64_t>(sequence); }
  static uint64_t entry_seed(int32_t sequence) { return 4000 + static_cast<uint64_t>(sequence); }
  LatentCodes codes() const { return {shape_.kv_lora_rank, shape_.rope_dim}; }
  int64_t layer_bytes() const {
    return kPageTokens * (shape_.cache == DType::kI8 ? codes().entry_bytes() : shape_.width() * size_of(shape_.cache));
  }

  const Weights& weights_of(const Backend& backend) {
    for (const auto& [owner, weights] : packed_)
      if (owner == &backend) return *weights;
    auto weights = std::make_unique<Weights>();
    const auto add = [&](std::vector<Weight>& views, WeightFormat format, int64_t rows, int64_t cols,
                         const std::vector<float>& source) {
      weights->owners.push_back(std::make_unique<PackedWeight>(backend, format, rows, cols, source));
      views.push_back(weights->owners.back()->view());
    };
    for (size_t head = 0; head < k_up_.size(); ++head) {
      add(weights->k_up, shape_.weights, shape_.nope_dim, shape_.kv_lora_rank, k_up_[head]);
      add(weights->k_up_t, shape_.absorbed_weights(), shape_.kv_lora_rank, shape_.nope_dim, k_up_t_[head]);
      add(weights->v_up, shape_.weights, shape_.v_dim, shape_.kv_lora_rank, v_up_[head]);
      add(weights->v_up_absorbed, shape_.absorbed_weights(), shape_.v_dim, shape_.kv_lora_rank, v_up_[head]);
    }
    packed_.emplace_back(&backend, std::move(weights));
    return *packed_.back().second;
  }

  std::vector<std::byte> make_pool(const std::vector<Piece>& pieces, bool future) const {
    std::vector<std::byte> pool(static_cast<size_t>(num_pages_ * 2 * layer_bytes()), std::byte{0xFF});
    for (const Piece& piece : pieces) {
      const int32_t end = future ? length(piece.sequence) : piece.end;
      for (int32_t position = 0; position < end; ++position) {
        const PageId page = pages_[static_cast<size_t>(piece.sequence)][static_cast<size_t>(position / kPageTokens)];
        std::byte* layer = pool.data() + layer_bytes() + value(page) * 2 * layer_bytes();
        if (shape_.cache == DType::kI8) {
          put_codes(layer, piece.sequence, position);
          continue;
        }
        std::byte* entry = layer + position % kPageTokens * shape_.width() * size_of(shape_.cache);
        for (int64_t i = 0; i < shape_.width(); ++i) {
          const float number = value_at(entry_seed(piece.sequence), position * shape_.width() + i);
          if (shape_.cache == DType::kF32) {
            reinterpret_cast<float*>(entry)[i] = number;
          } else {
            reinterpret_cast<uint16_t*>(entry)[i] = f32_to_bf16(number);
          }
        }
      }
    }
    return pool;
  }

  void put_codes(std::byte* layer, int32_t sequence, int32_t position) const {
    const int64_t place = position % kPageTokens, width = shape_.width();
    auto* scales = reinterpret_cast<float*>(layer + codes().scales_offset());
    std::vector<float> values(static_cast<size_t>(width));
    for (int64_t i = 0; i < width; ++i)
      values[static_cast<size_t>(i)] = value_at(entry_seed(sequence), position * width + i);
    std::vector<int8_t> made(values.size());
    for (int32_t g = 0; g < codes().num_groups(); ++g) {
      const int32_t begin = codes().begin(g);
      scales[g * kPageTokens + place] =
          quantize_activations(values.data() + begin, codes().begin(g + 1) - begin, made.data() + begin);
    }
    for (int64_t i = 0; i < width; ++i)
      layer[place * width + i] = static_cast<std::byte>(made[static_cast<size_t>(i)] + LatentCodes::kExcess);
  }

  std::vector<float> take_rows(const Backend& backend, const std::vector<SequenceSpan>& spans, int64_t num_rows,
                               const Guarded<float>& out) const {
    EXPECT_TRUE(out.guards_intact()) << backend.name << " " << shape_.text();
    std::vector<bool> ours(static_cast<size_t>(num_rows), false);
    std::vector<float> result;
    for (const SequenceSpan& span : spans) {
      for (int32_t i = 0; i < span.position_end - span.position_begin; ++i) {
        ours[static_cast<size_t>(span.row_begin + i)] = true;
        const auto row = out.values().subspan(static_cast<size_t>((span.row_begin + i) * shape_.out_row()),
                                              static_cast<size_t>(shape_.out_row()));
        result.insert(result.end(), row.begin(), row.end());
      }
    }
    for (int64_t row = 0; row < num_rows; ++row)
      EXPECT_TRUE(ours[static_cast<size_t>(row)] || out.untouched(row * shape_.out_row(), (row + 1) * shape_.out_row()))
          << backend.name << " writes foreign row " << row << ", " << shape_.text();
    return result;
  }

  AttentionShape shape_;
  std::vector<int32_t> lengths_;
  std::vector<std::vector<float>> k_up_, k_up_t_, v_up_;  // per head
  std::vector<std::vector<PageId>> pages_;                // per sequence
  int32_t num_pages_ = 0;
  std::vector<std::pair<const Backend*, std::unique_ptr<Weights>>> packed_;
};

}  // namespace sluice
