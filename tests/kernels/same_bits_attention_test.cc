// The rule of same bits for both attention forms: a row alone, in any batch, in any chunking, with any team, on any
// instruction set, run again, and whatever lies in memory that it may not read.
#include <string>
#include <vector>

#include "tests/kernels/latent_case.h"

namespace sluice {
namespace {

// Instrumented code is some ten times slower; what it looks for shows in the odd shapes as well.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kInstrumented = true;
#else
constexpr bool kInstrumented = false;
#endif

const std::vector<AttentionShape>& shapes() {
  static const std::vector<AttentionShape> all = [] {
    std::vector<AttentionShape> list = {{48, 6, 20, 24, 17, WeightFormat::kBF16, DType::kF32},
                                        {80, 16, 33, 7, 3, WeightFormat::kBF16, DType::kBF16},
                                        {160, 6, 33, 7, 17, WeightFormat::kBF16, DType::kI8}};
    if (kInstrumented) return list;
    list.push_back({64, 16, 32, 32, 8, WeightFormat::kF32, DType::kF32});
    list.push_back({64, 16, 32, 32, 8, WeightFormat::kBF16, DType::kBF16, WeightFormat::kInt8});
    list.push_back({64, 16, 32, 32, 8, WeightFormat::kBF16, DType::kI8, WeightFormat::kInt8});
    return list;
  }();
  return all;
}

constexpr Form kForms[] = {Form::kExpanded, Form::kAbsorbed};
constexpr int32_t kPrompt = 600;  // three partitions of the absorbed form (int8: two), ten tiles

const char* name(Form form) { return form == Form::kExpanded ? "expanded" : "absorbed"; }

class SameBitsAttentionTest : public BackendTest {
 protected:
  // What everything is compared with: the whole prompt at once, one thread, the first instruction set. AMX sums bf16 in
  // an order of its own.
  const Backend& first_of_its_bits() const {
    const auto is_amx = [](const Backend* b) { return std::string_view(b->name) == "cpu-amx"; };
    const std::vector<const Backend*> all = product_backends();
    return is_amx(&backend()) ? backend() : **std::find_if_not(all.begin(), all.end(), is_amx);
  }
  std::vector<float> whole_prompt(LatentCase& world, Form form) const {
    TestContext context;
    return world.attend(first_of_its_bits(), form, {{0, 0, world.length(0)}}, context);
  }

  void expect_rows(const LatentCase& world, std::span<const float> got, const std::vector<float>& whole, int32_t begin,
                   const std::string& what) {
    expect_same_bits(got, std::span(whole).subspan(static_cast<size_t>(begin * world.shape().out_row()), got.size()),
                     world.shape().out_row(), fmt::format("{}: {}", world.shape().text(), what));
  }
};

SLUICE_FOR_PRODUCT_BACKENDS(SameBitsAttentionTest);

TEST_P(SameBitsAttentionTest, AnyTeamAndInstructionSetAndRun) {
  for (const AttentionShape& shape : shapes()) {
    LatentCase world(shape, {kPrompt});
    for (Form form : kForms) {
      const std::vector<float> whole = whole_prompt(world, form);
      for (int threads : {1, 2, 3}) {
        TestContext context(threads);
        for (int run : {1, 2})  // the second finds the first one's leavings in the scratch
          expect_rows(world, world.attend(backend(), form, {{0, 450, kPrompt}}, context), whole, 450,
                      fmt::format("{} {} threads run {}", name(form), threads, run));
      }
    }
  }
}

// Chunks at multiples of a page are what the scheduler cuts (DESIGN.md); other borders hold too, since tiles start at
// absolute positions, and preemption makes them.
TEST_P(SameBitsAttentionTest, AnyChunkingOfAPrompt) {
  const std::vector<int32_t> cuts[] = {
      {64, 128, 192, 256, 320, 384, 448, 512, 576}, {128, 512}, {1, 2, 3, 63, 65, 130, 511, 513, 599}, {37, 300}};
  for (const AttentionShape& shape : shapes()) {
    LatentCase world(shape, {kPrompt});
    TestContext context(2);
    for (Form form : kForms) {
      const std::vector<float> whole = whole_prompt(world, form);
      for (std::vector<int32_t> borders : cuts) {
        borders.push_back(kPrompt);
        int32_t begin = 0;
        for (int32_t end : borders) {
          expect_rows(world, world.attend(backend(), form, {{0, begin, end}}, context), whole, begin,
                      fmt::format("{} chunk [{}, {})", name(form), begin, end));
          begin = end;
        }
      }
    }
  }
}

TEST_P(SameBitsAttentionTest, ARowAlone) {
  for (const AttentionShape& shape : shapes()) {
    LatentCase world(shape, {kPrompt});
    TestContext context;
    for (Form form : kForms) {
      const std::vector<float> whole = whole_prompt(world, form);
      for (int32_t position : {0, 1, 15, 62, 63, 64, 65, 127, 128, 333, 511, 512, 513, 575, 598, 599})
        expect_rows(world, world.attend(backend(), form, {{0, position, position + 1}}, context), whole, position,
                    fmt::format("{} position {} alone", name(form), position));
    }
  }
}

// Neighbours: other sequences before, between and behind, of other lengths; also the same sequence twice.
TEST_P(SameBitsAttentionTest, AnyBatch) {
  for (const AttentionShape& shape : shapes()) {
    LatentCase world(shape, {kPrompt, 1, 200, 70, 513});
    for (Form form : kForms) {
      const std::vector<float> whole = whole_prompt(world, form);
      const std::vector<std::vector<Piece>> batches = {
          {{0, 128, 140}, {1, 0, 1}},
          {{2, 64, 200}, {0, 599, 600}, {3, 0, 70}},
          {{4, 512, 513}, {1, 0, 1}, {3, 69, 70}, {0, 590, 600}},
          {{0, 0, 5}, {0, 5, 6}, {2, 199, 200}, {0, 510, 514}},
      };
      for (size_t b = 0; b < batches.size(); ++b) {
        for (int threads : {1, 3}) {
          TestContext context(threads);
          const std::vector<float> out = world.attend(backend(), form, batches[b], context);
          size_t at = 0;
          for (const Piece& piece : batches[b]) {
            const size_t count = static_cast<size_t>((piece.end - piece.begin) * shape.out_row());
            if (piece.sequence == 0)
              expect_rows(world, std::span(out).subspan(at, count), whole, piece.begin,
                          fmt::format("{} batch {} piece at {}", name(form), b, piece.begin));
            at += count;
          }
        }
      }
    }
  }
}

// All other tests have NaNs wherever a call may not read; here the sequence's own later entries lie there instead.
TEST_P(SameBitsAttentionTest, WhateverLiesBehindTheEnd) {
  for (const AttentionShape& shape : shapes()) {
    LatentCase world(shape, {kPrompt});
    TestContext context(2);
    for (Form form : kForms) {
      const std::vector<float> whole = whole_prompt(world, form);
      for (const Piece& piece : {Piece{0, 0, 37}, {0, 64, 100}, {0, 128, 192}, {0, 520, 521}})
        expect_rows(world, world.attend(backend(), form, {piece}, context, /*future=*/true), whole, piece.begin,
                    fmt::format("{} [{}, {})", name(form), piece.begin, piece.end));
    }
  }
}

// The released shape, short: register tiles and panels that the small shapes do not fill.
TEST_P(SameBitsAttentionTest, ReleasedShape) {
  for (DType cache : {DType::kBF16, DType::kI8}) {
    const AttentionShape shape{512, 64, 128, 128, 16, WeightFormat::kBF16, cache};
    LatentCase world(shape, {130, 40});
    for (Form form : kForms) {
      const std::vector<float> whole = whole_prompt(world, form);
      TestContext context(3);
      expect_rows(world, world.attend(backend(), form, {{0, 0, 64}}, context), whole, 0, "first page");
      expect_rows(world, world.attend(backend(), form, {{0, 64, 130}}, context), whole, 64, "rest");
      const std::vector<float> batch = world.attend(backend(), form, {{0, 129, 130}, {1, 39, 40}}, context);
      expect_rows(world, std::span(batch).first(static_cast<size_t>(shape.out_row())), whole, 129, "last row");
    }
  }
}

}  // namespace
}  // namespace sluice
