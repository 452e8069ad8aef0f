// Dense and grouped products over packed panels. Threads share the outputs in units of a few panels; each unit reads
// its weights from memory once and all rows from cache.
#include "kernels/cpu/matmul.h"

#include <algorithm>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/quantized_amx.h"

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

// Rows [row, row + count) of the product become one tile.
struct Tile {
  int32_t row, count;
};

// Where the rows of a product come from: the f32 rows themselves, or their quantised form, or that in tiles.
struct Rows {
  const float* x;
  int64_t x_stride;
  const int32_t* row_ids;  // or null
  QuantizedRows quantized;
  AmxRows tiles;

  int64_t source(int64_t row) const { return row_ids ? row_ids[row] : row; }
};

// Quantises the rows of x, and puts into tiles what is to be multiplied so. `memory` holds quantized_rows_bytes().
void quantize(const Weight& weight, int64_t num_rows, std::span<const Tile> tiles, std::byte* memory, ThreadTeam& team,
              Rows& rows) {
  rows.quantized = quantize_rows(weight, rows.x, num_rows, rows.x_stride, memory, team);
  const auto count = static_cast<int64_t>(tiles.size());
  team.parallel_for(count, grain_for(kAmxRows * weight.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const Tile& tile = tiles[static_cast<size_t>(t)];
      rows.tiles.fill(t, tile.count, [&](int64_t r) { return row_view(rows.quantized, rows.source(tile.row + r)); });
    }
  });
}

// Appends rows [begin, end), where they are enough for tiles.
void add_tiles(int64_t begin, int64_t end, Tile* tiles, int64_t* num_tiles) {
  for (int64_t i = 0; i < amx_tiles(end - begin); ++i) {
    const int64_t row = begin + i * kAmxRows;
    tiles[(*num_tiles)++] = {static_cast<int32_t>(row), static_cast<int32_t>(std::min(kAmxRows, end - row))};
  }
}

// Outputs of panels [panel_begin, panel_begin + count) for rows [row_begin, row_begin + num_rows), whose tiles, if they
// have some, begin with `first_tile`.
template <typename Store>
void multiply_panels(const Weight& weight, int64_t panel_begin, int64_t count, const Rows& rows, int64_t row_begin,
                     int64_t num_rows, [[maybe_unused]] int64_t first_tile, Store&& store_result) {
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
  const auto run = [&]<int BITS>(std::integral_constant<int, BITS>) {
#if defined(__AMX_INT8__)
    if (amx_tiles(num_rows) > 0)
      return multiply_quantized_amx<BITS>(rows.tiles, first_tile, num_rows, shape, weight.data, panel_begin,
                                          panel_begin + count, store_result);
#endif
    multiply_quantized_block<BITS>(num_rows, row, shape, weight.data, panel_begin, panel_begin + count, store_result);
  };
  if (shape.bits == 4) {
    run(std::integral_constant<int, 4>{});
  } else {
    run(std::integral_constant<int, 8>{});
  }
}

void store_lanes(float* y, F32x16 value, int64_t outputs_left, bool add) {
  if (outputs_left >= kLanes) {
    store(y, add ? load(y) + value : value);
  } else {
    store_first(y, add ? load_first(y, outputs_left) + value : value, outputs_left);
  }
}

// Scratch of a product: who has rows at all (threads share real work only), their tiles, the rows' quantised forms.
struct Workspace {
  int32_t* active;      // [experts]
  int64_t* first_tile;  // [experts], by place in `active`
  Tile* tiles;
  Rows rows;
  std::byte* quantized;

  Workspace(Carver& carver, const Weight& weight, int64_t num_experts, int64_t num_rows, int64_t num_tiles)
      : active(carver.take<int32_t>(num_experts)),
        first_tile(carver.take<int64_t>(num_experts)),
        tiles(carver.take<Tile>(num_tiles)),
        rows{nullptr, 0, nullptr, {}, num_tiles > 0 ? AmxRows(carver, QuantizedShape(weight), num_tiles) : AmxRows{}},
        quantized(carver.take<std::byte>(
            is_quantized(weight.format) ? static_cast<int64_t>(quantized_rows_bytes(weight, num_rows)) : 0)) {}
};

Workspace make_workspace(Scratch& scratch, const Weight& weight, int64_t num_experts, int64_t num_rows,
                         int64_t num_tiles) {
  Carver count;
  Workspace(count, weight, num_experts, num_rows, num_tiles);
  Carver place(scratch.reserve(count.bytes()));
  return Workspace(place, weight, num_experts, num_rows, num_tiles);
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
  const int64_t num_tiles = is_quantized(weight.format) ? amx_tiles(args.rows) : 0;
  Workspace work = make_workspace(context.scratch, weight, 0, args.rows, num_tiles);
  Rows& rows = work.rows;
  rows.x = args.x;
  rows.x_stride = args.x_stride;
  if (is_quantized(weight.format)) {
    int64_t count = 0;
    add_tiles(0, args.rows, work.tiles, &count);
    quantize(weight, args.rows, std::span(work.tiles, static_cast<size_t>(count)), work.quantized, context.team, rows);
  }
  context.team.parallel_for(units, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t panel_begin = unit * kUnitPanels;
      multiply_panels(weight, panel_begin, std::min(kUnitPanels, panels - panel_begin), rows, 0, args.rows, 0,
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
  const auto first_row = [&](int64_t expert) { return int64_t{args.offsets[static_cast<size_t>(expert)]}; };
  const int64_t x_rows = args.row_ids ? *std::max_element(args.row_ids, args.row_ids + total_rows) + 1 : total_rows;
  int64_t num_tiles = 0;
  if (is_quantized(shape.format))
    for (int64_t e = 0; e < num_experts; ++e) num_tiles += amx_tiles(first_row(e + 1) - first_row(e));
  Workspace work = make_workspace(context.scratch, shape, num_experts, x_rows, num_tiles);
  Rows& rows = work.rows;
  rows.x = args.x;
  rows.x_stride = args.x_stride;
  rows.row_ids = args.row_ids;
  int64_t num_active = 0, next_tile = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    if (first_row(e) == first_row(e + 1)) continue;
    work.active[num_active] = static_cast<int32_t>(e);
    work.first_tile[num_active++] = next_tile;
    if (is_quantized(shape.format)) add_tiles(first_row(e), first_row(e + 1), work.tiles, &next_tile);
  }
  if (is_quantized(shape.format))
    quantize(shape, x_rows, std::span(work.tiles, static_cast<size_t>(num_tiles)), work.quantized, context.team, rows);
  const int64_t grain = grain_for(std::max<int64_t>(1, total_rows / num_active) * shape.cols * kUnitPanels * kLanes);
  context.team.parallel_for(num_active * units, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t expert = work.active[index / units];
      const int64_t panel_begin = index % units * kUnitPanels;
      const int64_t row_begin = first_row(expert);
      multiply_panels(args.weights[static_cast<size_t>(expert)], panel_begin, std::min(kUnitPanels, panels - panel_begin),
                      rows, row_begin, first_row(expert + 1) - row_begin, work.first_tile[index / units],
                      [&](int64_t r, int64_t p, F32x16 value) {
                        const int64_t n = (panel_begin + p) * kLanes;
                        store_lanes(args.y + (row_begin + r) * args.y_stride + n, value, shape.rows - n, false);
                      });
    }
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
