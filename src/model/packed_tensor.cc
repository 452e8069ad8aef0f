#include "model/packed_tensor.h"

#include <array>
#include <cstring>
#include <vector>

#include "sluice/quantize.h"

namespace sluice {

namespace {

constexpr std::array<int32_t, 8> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};  // output at nibble i of a word

// Nibble that holds output i.
constexpr std::array<int32_t, 8> awq_places() {
  std::array<int32_t, 8> places{};
  for (size_t i = 0; i < places.size(); ++i) places[static_cast<size_t>(kAwqOrder[i])] = static_cast<int32_t>(i);
  return places;
}
constexpr std::array<int32_t, 8> kAwqPlaces = awq_places();

struct PartNames {
  const char* codes;
  const char* scales;
  const char* zeros;
};

PartNames parts_of(PackedLayout layout) {
  if (layout == PackedLayout::kPackQuantized) return {"weight_packed", "weight_scale", "weight_zero_point"};
  return {"qweight", "scales", "qzeros"};
}

// "model.layers.0.mlp.up_proj." of "model.layers.0.mlp.up_proj.weight".
std::string prefix_of(const std::string& name) { return name.substr(0, name.size() - std::strlen("weight")); }

bool has_zeros(const PackedScheme& scheme) {
  return scheme.layout != PackedLayout::kPackQuantized || !scheme.symmetric;
}

int32_t word_at(const TensorView& words, int64_t index) {
  int32_t word;  // memcpy: the file promises no alignment
  std::memcpy(&word, words.data + index * 4, sizeof(word));
  return word;
}

int32_t code_in(int32_t word, int32_t place, int32_t bits) {
  return static_cast<int32_t>(static_cast<uint32_t>(word) >> (place * bits)) & ((1 << bits) - 1);
}

// The parts of one matrix.
struct Parts {
  TensorView codes, scales, zeros;
  int64_t rows = 0, cols = 0, groups = 0;
};

Status expect_part(const std::string& prefix, const char* part, std::initializer_list<DType> dtypes, const Shape& shape,
                   const TensorLookup& find) {
  const std::string name = prefix + part;
  const FoundTensor found = find(name);
  if (found.view == nullptr)
    return failed_precondition("tensor \"{}\": expected {}, found no such tensor", name, shape.to_string());
  if (!(found.view->shape == shape))
    return failed_precondition("{}: tensor \"{}\": shape: expected {}, found {}", *found.path, name, shape.to_string(),
                               found.view->shape.to_string());
  std::string known;
  for (DType dtype : dtypes) {
    if (found.view->dtype == dtype) return {};
    known += fmt::format("{}{}", known.empty() ? "" : " or ", sluice::name(dtype));
  }
  return failed_precondition("{}: tensor \"{}\": dtype: expected {}, found {}", *found.path, name, known,
                             sluice::name(found.view->dtype));
}

Parts parts_for(const PackedScheme& scheme, const std::string& prefix, const TensorLookup& find) {
  const PartNames names = parts_of(scheme.layout);
  Parts parts;
  parts.codes = *find(prefix + names.codes).view;
  parts.scales = *find(prefix + names.scales).view;
  if (has_zeros(scheme)) parts.zeros = *find(prefix + names.zeros).view;
  const bool by_rows = scheme.layout == PackedLayout::kPackQuantized;
  const int64_t codes_per_word = 32 / scheme.bits;
  parts.rows = parts.scales.shape[by_rows ? 0 : 1];
  parts.groups = parts.scales.shape[by_rows ? 1 : 0];
  parts.cols = parts.codes.shape[by_rows ? 1 : 0] * (scheme.layout == PackedLayout::kAwq ? 1 : codes_per_word);
  return parts;
}

// The stored zero of (row, group), in units of stored codes.
int32_t zero_at(const PackedScheme& scheme, const Parts& parts, int64_t row, int64_t group) {
  const int32_t codes_per_word = 32 / scheme.bits;
  const int32_t middle = 1 << (scheme.bits - 1);
  if (!has_zeros(scheme)) return middle;
  const auto place = static_cast<int32_t>(row % codes_per_word);
  if (scheme.layout == PackedLayout::kPackQuantized)
    return code_in(word_at(parts.zeros, row / codes_per_word * parts.groups + group), place, scheme.bits);
  const int32_t word = word_at(parts.zeros, group * (parts.rows / codes_per_word) + row / codes_per_word);
  if (scheme.layout == PackedLayout::kAwq) return code_in(word, kAwqPlaces[static_cast<size_t>(place)], scheme.bits);
  const int32_t zero = code_in(word, place, scheme.bits);
  return scheme.zeros_less_one ? (zero + 1) & ((1 << scheme.bits) - 1) : zero;
}

float scale_at(const PackedScheme& scheme, const Parts& parts, int64_t row, int64_t group) {
  const int64_t index =
      scheme.layout == PackedLayout::kPackQuantized ? row * parts.groups + group : group * parts.rows + row;
  float scale;
  widen_to_f32(parts.scales, index, 1, &scale);
  return f16_to_f32(f32_to_f16(scale));
}

// Act-order checkpoints permute the inputs; a group is then no range of them.
Status expect_ascending_groups(const std::string& prefix, int64_t cols, int64_t group, const TensorLookup& find) {
  const FoundTensor found = find(prefix + "g_idx");
  if (found.view == nullptr) return {};
  SLUICE_RETURN_IF_ERROR(expect_part(prefix, "g_idx", {DType::kI32}, {cols}, find));
  for (int64_t k = 0; k < cols; ++k)
    if (word_at(*found.view, k) != k / group)
      return failed_precondition(
          "{}: tensor \"{}g_idx\": expected input {} in group {}, found {}: checkpoints in act-order (desc_act) are not"
          " supported",
          *found.path, prefix, k, k / group, word_at(*found.view, k));
  return {};
}

// The number of groups, from the shape of the scales.
Result<int64_t> count_groups(const PackedScheme& scheme, const std::string& prefix, int64_t rows, int64_t cols,
                             const TensorLookup& find) {
  const std::string name = prefix + parts_of(scheme.layout).scales;
  const FoundTensor found = find(name);
  const int axis = scheme.layout == PackedLayout::kPackQuantized ? 1 : 0;
  if (found.view == nullptr) return failed_precondition("tensor \"{}\": found no such tensor", name);
  const Shape& shape = found.view->shape;
  const int32_t codes_per_word = 32 / scheme.bits;
  if (shape.rank != 2 || shape[1 - axis] != rows || shape[axis] == 0 || cols % shape[axis] != 0 ||
      cols / shape[axis] % codes_per_word != 0)
    return failed_precondition("{}: tensor \"{}\": shape: expected {} rows with a scale for each group of {} inputs,"
                               " found {}",
                               *found.path, name, rows,
                               scheme.group > 0 ? std::to_string(scheme.group) : fmt::format("all {}", cols),
                               shape.to_string());
  return shape[axis];
}

// Version 1 keeps 7 where version 2 keeps 8: a config that names the wrong one would shift every weight by a step.
Status expect_middle_zeros(const PackedScheme& scheme, const std::string& prefix, const Parts& parts) {
  const int32_t middle = 1 << (scheme.bits - 1);
  for (int64_t group = 0; group < parts.groups; ++group)
    for (int64_t row = 0; row < parts.rows; ++row)
      if (const int32_t zero = zero_at(scheme, parts, row, group); zero != middle)
        return failed_precondition(
            "tensor \"{}qzeros\": output {}, group {}: expected zero point {} of a symmetric checkpoint (sym), found {};"
            " is checkpoint_format the right one?",
            prefix, row, group, middle, zero);
  return {};
}

// One group of inputs, [k_begin, k_end), of some rows.
struct GroupOfRows {
  const Parts& parts;
  int32_t bits;
  int64_t row_begin, num_rows;
  int64_t k_begin, k_end;
  const std::vector<float>& scales;   // [num_rows]
  const std::vector<int32_t>& zeros;  // [num_rows], as stored

  float value(int64_t r, int32_t code) const {
    return scales[static_cast<size_t>(r)] * static_cast<float>(code - zeros[static_cast<size_t>(r)]);
  }
};

void read_pack_quantized(const GroupOfRows& tile, float* out) {
  const int64_t cols = tile.parts.cols;
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    const auto* stored = reinterpret_cast<const uint8_t*>(tile.parts.codes.data) +
                         ((tile.row_begin + r) * cols + tile.k_begin) * tile.bits / 8;
    const auto expand = tile.bits == 4 ? expand_nibbles : expand_bytes;
    expand(stored, static_cast<int32_t>(tile.k_end - tile.k_begin), tile.scales[static_cast<size_t>(r)],
           tile.zeros[static_cast<size_t>(r)], out + r * cols + tile.k_begin);
  }
}

void read_gptq(const GroupOfRows& tile, float* out) {
  const int32_t codes_per_word = 32 / tile.bits;
  for (int64_t k = tile.k_begin; k < tile.k_end; k += codes_per_word) {
    for (int64_t r = 0; r < tile.num_rows; ++r) {
      const int32_t word = word_at(tile.parts.codes, k / codes_per_word * tile.parts.rows + tile.row_begin + r);
      for (int32_t i = 0; i < codes_per_word; ++i)
        out[r * tile.parts.cols + k + i] = tile.value(r, code_in(word, i, tile.bits));
    }
  }
}

void read_awq(const GroupOfRows& tile, float* out) {
  constexpr int64_t kCodesPerWord = 8;
  for (int64_t k = tile.k_begin; k < tile.k_end; ++k) {
    for (int64_t r = 0; r < tile.num_rows; ++r) {
      const int64_t row = tile.row_begin + r;
      const int32_t word =
          word_at(tile.parts.codes, k * (tile.parts.rows / kCodesPerWord) + row / kCodesPerWord);
      out[r * tile.parts.cols + k] =
          tile.value(r, code_in(word, kAwqPlaces[static_cast<size_t>(row % kCodesPerWord)], tile.bits));
    }
  }
}

}  // namespace

bool has_packed(const PackedScheme& scheme, const std::string& name, const TensorLookup& find) {
  return name.ends_with(".weight") && find(prefix_of(name) + parts_of(scheme.layout).codes).view != nullptr;
}

Status expect_packed(const PackedScheme& scheme, const std::string& name, const Shape& shape,
                     const TensorLookup& find) {
  const std::string prefix = prefix_of(name);
  if (shape.rank != 2)
    return failed_precondition("tensor \"{}\": expected {}, found a quantised matrix", name, shape.to_string());
  const int64_t rows = shape[0], cols = shape[1];
  SLUICE_ASSIGN_OR_RETURN(const int64_t groups, count_groups(scheme, prefix, rows, cols, find));
  const PartNames names = parts_of(scheme.layout);
  const int64_t per_word = 32 / scheme.bits;
  const bool by_rows = scheme.layout == PackedLayout::kPackQuantized;
  const Shape codes = by_rows                                ? Shape{rows, cols / per_word}
                      : scheme.layout == PackedLayout::kGptq ? Shape{cols / per_word, rows}
                                                             : Shape{cols, rows / per_word};
  SLUICE_RETURN_IF_ERROR(expect_part(prefix, names.codes, {DType::kI32}, codes, find));
  SLUICE_RETURN_IF_ERROR(expect_part(prefix, names.scales, {DType::kF16, DType::kBF16, DType::kF32},
                                     by_rows ? Shape{rows, groups} : Shape{groups, rows}, find));
  if (!by_rows && rows % per_word != 0)
    return failed_precondition("tensor \"{}{}\": expected a multiple of {} outputs, found {}", prefix, names.codes,
                               per_word, rows);
  if (has_zeros(scheme))
    SLUICE_RETURN_IF_ERROR(
        expect_part(prefix, names.zeros, {DType::kI32},
                    by_rows ? Shape{(rows + per_word - 1) / per_word, groups} : Shape{groups, rows / per_word}, find));
  if (by_rows && find(prefix + "weight_g_idx").view != nullptr)
    return failed_precondition("tensor \"{}weight_g_idx\": checkpoints in act-order are not supported", prefix);
  if (scheme.layout != PackedLayout::kGptq) return {};
  SLUICE_RETURN_IF_ERROR(expect_ascending_groups(prefix, cols, cols / groups, find));
  return scheme.symmetric ? expect_middle_zeros(scheme, prefix, parts_for(scheme, prefix, find)) : Status();
}

int64_t packed_group(const PackedScheme& scheme, const std::string& name, const TensorLookup& find) {
  const Parts parts = parts_for(scheme, prefix_of(name), find);
  return parts.cols / parts.groups;
}

void read_packed_rows(const PackedScheme& scheme, const std::string& name, int64_t row_begin, int64_t num_rows,
                      const TensorLookup& find, float* out) {
  const Parts parts = parts_for(scheme, prefix_of(name), find);
  const int64_t cols = parts.cols, group = cols / parts.groups;
  std::vector<float> scales(static_cast<size_t>(num_rows));
  std::vector<int32_t> zeros(static_cast<size_t>(num_rows));
  for (int64_t g = 0; g < parts.groups; ++g) {
    for (int64_t r = 0; r < num_rows; ++r) {
      scales[static_cast<size_t>(r)] = scale_at(scheme, parts, row_begin + r, g);
      zeros[static_cast<size_t>(r)] = zero_at(scheme, parts, row_begin + r, g);
    }
    const GroupOfRows tile{parts, scheme.bits, row_begin, num_rows, g * group, (g + 1) * group, scales, zeros};
    switch (scheme.layout) {
      case PackedLayout::kPackQuantized:
        read_pack_quantized(tile, out);
        break;
      case PackedLayout::kGptq:
        read_gptq(tile, out);
        break;
      case PackedLayout::kAwq:
        read_awq(tile, out);
        break;
    }
  }
}

}  // namespace sluice
