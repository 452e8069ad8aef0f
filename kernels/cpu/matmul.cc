// Dense and grouped products over packed panels. Threads share the outputs in units of a few panels; each unit reads
// its weights from memory once and all rows from cache.
#include "kernels/cpu/matmul.h"

#include <algorithm>

#include "kernels/cpu/backend.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

// Panels that one unit of work takes: kVectorPanels, so that a single row fills its register tile.
constexpr int64_t kUnitPanels = 8;
// Multiply-adds below which waking another thread costs more than it saves: a hand-over is 1-2 us, in which one core
// does about 64k of them at 32 a ns.
constexpr int64_t kGrainWork = 1 << 16;

int64_t grain_for(int64_t work_per_unit) {
  return std::max<int64_t>(1, kGrainWork / std::max<int64_t>(1, work_per_unit));
}

void store_lanes(float* y, F32x16 value, int64_t outputs_left, bool add) {
  if (outputs_left >= kLanes) {
    store(y, add ? load(y) + value : value);
  } else {
    store_first(y, add ? load_first(y, outputs_left) + value : value, outputs_left);
  }
}

}  // namespace

bool supports(WeightFormat format) {
  return format == WeightFormat::kF32 || format == WeightFormat::kBF16;
}

int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  return weight_bytes(format, (rows + kLanes - 1) / kLanes * kLanes, cols);
}

void pack(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed) {
  const auto scatter = [&](auto* out, auto&& convert) {
    const int64_t padded_rows = (num_rows + kLanes - 1) / kLanes * kLanes;
    for (int64_t r = 0; r < padded_rows; ++r) {
      auto* column = out + (row_begin + r) / kLanes * kLanes * shape.cols + (row_begin + r) % kLanes;
      for (int64_t k = 0; k < shape.cols; ++k)
        column[k * kLanes] = convert(r < num_rows ? source[r * shape.cols + k] : 0);
    }
  };
  if (shape.format == WeightFormat::kF32) {
    scatter(reinterpret_cast<float*>(packed), [](float value) { return value; });
  } else {
    SLUICE_CHECK(shape.format == WeightFormat::kBF16, "format={}", name(shape.format));
    scatter(reinterpret_cast<uint16_t*>(packed), [](float value) { return f32_to_bf16(value); });
  }
}

void matmul(const MatmulArgs& args, OpContext& context) {
  const Weight& weight = args.weight;
  const int64_t panels = num_panels(weight);
  const int64_t units = (panels + kUnitPanels - 1) / kUnitPanels;
  const int64_t grain = grain_for(args.rows * weight.cols * kUnitPanels * kLanes);
  context.team.parallel_for(units, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t panel_begin = unit * kUnitPanels;
      with_panels(weight, panel_begin, [&](auto tile_weights) {
        multiply_block(
            args.rows, [&](int64_t r) { return args.x + r * args.x_stride; }, weight.cols, tile_weights,
            std::min(kUnitPanels, panels - panel_begin),
            [&](int64_t r, int64_t p, F32x16 value) {
              const int64_t n = (panel_begin + p) * kLanes;
              store_lanes(args.y + r * args.y_stride + n, value, weight.rows - n, args.add);
            });
      });
    }
  });
}

void grouped_matmul(const GroupedMatmulArgs& args, OpContext& context) {
  const auto num_experts = static_cast<int64_t>(args.weights.size());
  const Weight& shape = args.weights[0];
  const int64_t panels = num_panels(shape);
  const int64_t units = (panels + kUnitPanels - 1) / kUnitPanels;
  // Experts that have rows at all, so that threads share real work only.
  auto* active =
      reinterpret_cast<int32_t*>(context.scratch.reserve(static_cast<size_t>(num_experts) * sizeof(int32_t)));
  int64_t num_active = 0;
  for (int64_t e = 0; e < num_experts; ++e)
    if (args.offsets[static_cast<size_t>(e)] < args.offsets[static_cast<size_t>(e) + 1])
      active[num_active++] = static_cast<int32_t>(e);
  if (num_active == 0) return;
  const int64_t mean_rows = std::max<int64_t>(1, args.offsets[static_cast<size_t>(num_experts)] / num_active);
  const int64_t grain = grain_for(mean_rows * shape.cols * kUnitPanels * kLanes);
  context.team.parallel_for(num_active * units, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const auto expert = static_cast<size_t>(active[index / units]);
      const int64_t panel_begin = index % units * kUnitPanels;
      const int64_t row_begin = args.offsets[expert];
      with_panels(args.weights[expert], panel_begin, [&](auto tile_weights) {
        multiply_block(
            args.offsets[expert + 1] - row_begin,
            [&](int64_t r) {
              return args.x + (args.row_ids ? args.row_ids[row_begin + r] : row_begin + r) * args.x_stride;
            },
            shape.cols, tile_weights, std::min(kUnitPanels, panels - panel_begin),
            [&](int64_t r, int64_t p, F32x16 value) {
              const int64_t n = (panel_begin + p) * kLanes;
              store_lanes(args.y + (row_begin + r) * args.y_stride + n, value, shape.rows - n, false);
            });
      });
    }
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
