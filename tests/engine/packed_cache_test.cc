// The cache of packed weights is invisible but for the time: the same answers with it, without it, and after damage.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/model/temp_directory.h"
#include "tests/support/model_runner.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

class PackedCacheModel : public testing::Test {
 protected:
  // What all packed matrices make of an input, in load order, and whether the file was read to the end.
  std::pair<std::vector<float>, bool> load(PackedCache* cache) {
    const std::string directory = source_file("configs/demo-moe");
    const ModelConfig config = ModelConfig::load(directory).value();
    const Checkpoint checkpoint = Checkpoint::open(directory, config).value();
    const Backend& backend = *find_backend("auto").value();
    OpContext context{team_, scratch_};
    std::vector<Weight> weights;
    const auto model = DeepSeekModel::load(
        config, checkpoint, backend, context,
        {.weights = WeightFormat::kInt4G32,
         .observer = [&](const std::vector<std::string>&, const Weight& weight) { weights.push_back(weight); },
         .packed_cache = cache});
    EXPECT_TRUE(model.ok()) << model.status().to_string();
    std::vector<float> products;
    for (const Weight& weight : weights) {
      std::vector<float> x(static_cast<size_t>(weight.cols)), y(static_cast<size_t>(weight.rows));
      for (size_t k = 0; k < x.size(); ++k) x[k] = static_cast<float>(k % 13) - 6;
      backend.matmul({.x = x.data(), .rows = 1, .x_stride = weight.cols, .weight = weight, .y = y.data(),
                      .y_stride = weight.rows},
                     context);
      products.insert(products.end(), y.begin(), y.end());
    }
    return {products, cache && cache->reading()};
  }

  ThreadTeam team_{2};
  Scratch scratch_;
  TempDirectory directory_;
};

TEST_F(PackedCacheModel, SameProductsWrittenReadAndDamaged) {
  const std::string path = directory_.file("packed");
  const auto plain = load(nullptr).first;
  for (const bool expected_reading : {false, true}) {
    PackedCache cache(path, 1);
    const auto [products, reading] = load(&cache);
    EXPECT_EQ(reading, expected_reading);
    EXPECT_TRUE(products == plain);
  }
  const auto middle = static_cast<std::streamoff>(std::filesystem::file_size(path) / 2);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(middle);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(middle);
    file.put(byte);
  }
  PackedCache cache(path, 1);
  const auto [products, reading] = load(&cache);
  EXPECT_FALSE(reading);
  EXPECT_TRUE(products == plain) << "the damaged buffer and all after it are packed again";
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(PackedCacheModel, LayoutsOfBackendsAndFormatsDiffer) {
  std::vector<uint64_t> layouts;
  for (const char* backend : {"ref", "auto"})
    for (const WeightFormat format : {WeightFormat::kInt4G32, WeightFormat::kInt4G128, WeightFormat::kInt8})
      layouts.push_back(packed_layout(packing_of(*find_backend(backend).value()), format));
  for (size_t i = 0; i < layouts.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_NE(layouts[i], layouts[j]) << i << ", " << j;
  EXPECT_EQ(packed_layout(packing_of(*find_backend("ref").value()), WeightFormat::kInt8), layouts[2]);
}

}  // namespace
}  // namespace sluice
