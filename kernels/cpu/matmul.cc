// Dense and grouped products over packed panels. Threads share the outputs in units of a few panels; each unit reads
// its weights from memory once and all rows from cache.
#include "kernels/cpu/matmul.h"

#include <algorithm>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/quantized.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

// Panels that one unit of work takes: kVectorPanels, so that a single row fills its register tile; whole blocks of
// quantised panels.
constexpr int64_t kUnitPanels = 8;
static_assert(kUnitPanels % kBlockPanels == 0);
// Multiply-adds below which waking another thread costs more than it saves: a hand-over is 1-2 us, in which one core
// does about 64k of them at 32 a ns.
constexpr int64_t kGrainWork = 1 << 16;

int64_t grain_for(int64_t work_per_unit) {
  return std::max<int64_t>(1, kGrainWork / std::max<int64_t>(1, work_per_unit));
}

// Where the rows of a product come from: the f32 rows themselves, or their quantised form.
struct Rows {
  const float* x;
  int64_t x_stride;
  const int32_t* row_ids;  // or null
  QuantizedRows quantized;

  int64_t source(int64_t row) const { return row_ids ? row_ids[row] : row; }
};

// Quantises the rows of x where the weight asks for it. `memory` holds quantized_rows_bytes().
Rows prepare_rows(const Weight& weight, const float* x, int64_t num_rows, int64_t x_stride, const int32_t* row_ids,
                  std::byte* memory, ThreadTeam& team) {
  Rows rows{x, x_stride, row_ids, {}};
  if (is_quantized(weight.format)) rows.quantized = quantize_rows(weight, x, num_rows, x_stride, memory, team);
  return rows;
}

// Outputs of panels [panel_begin, panel_begin + count) for rows [row_begin, row_begin + num_rows).
template <typename Store>
void multiply_panels(const Weight& weight, int64_t panel_begin, int64_t count, const Rows& rows, int64_t row_begin,
                     int64_t num_rows, Store&& store_result) {
  if (!is_quantized(weight.format)) {
    with_panels(weight, panel_begin, [&](auto tile_weights) {
      multiply_block(
          num_rows, [&](int64_t r) { return rows.x + rows.source(row_begin + r) * rows.x_stride; }, weight.cols,
          tile_weights, count, store_result);
    });
    return;
  }
  const QuantizedShape shape(weight);
  const auto row = [&](int64_t r) { return row_view(rows.quantized, rows.source(row_begin + r)); };
  if (shape.bits == 4) {
    multiply_quantized_block<4>(num_rows, row, shape, weight.data, panel_begin, panel_begin + count, store_result);
  } else {
    multiply_quantized_block<8>(num_rows, row, shape, weight.data, panel_begin, panel_begin + count, store_result);
  }
}

void store_lanes(float* y, F32x16 value, int64_t outputs_left, bool add) {
  if (outputs_left >= kLanes) {
    store(y, add ? load(y) + value : value);
  } else {
    store_first(y, add ? load_first(y, outputs_left) + value : value, outputs_left);
  }
}

}  // namespace

bool supports(WeightFormat format) { return format != WeightFormat::kAuto; }

int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  if (is_quantized(format)) return quantized_packed_bytes({format, rows, cols, nullptr});
  const int64_t panels = num_panels({format, rows, cols, nullptr});
  if (format == WeightFormat::kBF16) return panels * pair_panel_elements(cols) * 2;
  return weight_bytes(format, panels * kLanes, cols);
}

void pack(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed) {
  if (is_quantized(shape.format)) return pack_quantized(shape, row_begin, num_rows, source, packed);
  const int64_t padded_rows = (num_rows + kLanes - 1) / kLanes * kLanes;
  const auto value = [&](int64_t r, int64_t k) {
    return r < num_rows && k < shape.cols ? source[r * shape.cols + k] : 0.0f;
  };
  for (int64_t r = 0; r < padded_rows; ++r) {
    const int64_t panel = (row_begin + r) / kLanes, lane = (row_begin + r) % kLanes;
    if (shape.format == WeightFormat::kF32) {
      float* column = reinterpret_cast<float*>(packed) + panel * shape.cols * kLanes + lane;
      for (int64_t k = 0; k < shape.cols; ++k) column[k * kLanes] = value(r, k);
    } else {
      SLUICE_CHECK(shape.format == WeightFormat::kBF16, "format={}", name(shape.format));
      uint16_t* column = reinterpret_cast<uint16_t*>(packed) + panel * pair_panel_elements(shape.cols) + lane * 2;
      for (int64_t k = 0; k < (shape.cols + 1) / 2 * 2; ++k)
        column[k / 2 * kPairElements + k % 2] = f32_to_bf16(value(r, k));
    }
  }
}

void matmul(const MatmulArgs& args, OpContext& context) {
  const Weight& weight = args.weight;
  const int64_t panels = num_panels(weight);
  const int64_t units = (panels + kUnitPanels - 1) / kUnitPanels;
  const int64_t grain = grain_for(args.rows * weight.cols * kUnitPanels * kLanes);
  std::byte* memory =
      is_quantized(weight.format) ? context.scratch.reserve(quantized_rows_bytes(weight, args.rows)) : nullptr;
  const Rows rows = prepare_rows(weight, args.x, args.rows, args.x_stride, nullptr, memory, context.team);
  context.team.parallel_for(units, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t panel_begin = unit * kUnitPanels;
      multiply_panels(weight, panel_begin, std::min(kUnitPanels, panels - panel_begin), rows, 0, args.rows,
                      [&](int64_t r, int64_t p, F32x16 value) {
                        const int64_t n = (panel_begin + p) * kLanes;
                        store_lanes(args.y + r * args.y_stride + n, value, weight.rows - n, args.add);
                      });
    }
  });
}

void grouped_matmul(const GroupedMatmulArgs& args, OpContext& context) {
  const auto num_experts = static_cast<int64_t>(args.weights.size());
  const Weight& shape = args.weights[0];
  const int64_t panels = num_panels(shape);
  const int64_t units = (panels + kUnitPanels - 1) / kUnitPanels;
  const int64_t total_rows = args.offsets[static_cast<size_t>(num_experts)];
  if (total_rows == 0) return;
  // Scratch: the experts that have rows at all (threads share real work only), then the quantised rows of x.
  const int64_t x_rows = args.row_ids ? *std::max_element(args.row_ids, args.row_ids + total_rows) + 1 : total_rows;
  const size_t list_bytes = static_cast<size_t>(num_experts + 15) / 16 * 64;
  std::byte* memory =
      context.scratch.reserve(list_bytes + (is_quantized(shape.format) ? quantized_rows_bytes(shape, x_rows) : 0));
  auto* active = reinterpret_cast<int32_t*>(memory);
  int64_t num_active = 0;
  for (int64_t e = 0; e < num_experts; ++e)
    if (args.offsets[static_cast<size_t>(e)] < args.offsets[static_cast<size_t>(e) + 1])
      active[num_active++] = static_cast<int32_t>(e);
  const Rows rows = prepare_rows(shape, args.x, x_rows, args.x_stride, args.row_ids, memory + list_bytes, context.team);
  const int64_t grain = grain_for(std::max<int64_t>(1, total_rows / num_active) * shape.cols * kUnitPanels * kLanes);
  context.team.parallel_for(num_active * units, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const auto expert = static_cast<size_t>(active[index / units]);
      const int64_t panel_begin = index % units * kUnitPanels;
      const int64_t row_begin = args.offsets[expert];
      multiply_panels(args.weights[expert], panel_begin, std::min(kUnitPanels, panels - panel_begin), rows, row_begin,
                      args.offsets[expert + 1] - row_begin, [&](int64_t r, int64_t p, F32x16 value) {
                        const int64_t n = (panel_begin + p) * kLanes;
                        store_lanes(args.y + (row_begin + r) * args.y_stride + n, value, shape.rows - n, false);
                      });
    }
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
