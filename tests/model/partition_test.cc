// Which part of a model a rank holds, where the cuts are not even.
#include "model/partition.h"

#include <gtest/gtest.h>

#include "sluice/quantize.h"

#include "tests/support/source_file.h"

namespace sluice {
namespace {

ModelConfig lite() { return ModelConfig::load(source_file("configs/shapes/lite")).value(); }

// 10,944 columns are 171 groups of 64, as they are no multiple of 128. The first of two ranks gets 86 of them, 5,504
// columns, which are one: padded until they count in groups of 64 again.
TEST(Partition, PadsWhereACutWouldChangeTheGroups) {
  const ModelConfig config = lite();
  ASSERT_EQ(group_size(WeightFormat::kInt8, config.intermediate_size), 64);
  const Partition first = Partition::make(config, WeightFormat::kInt8, 0, 2, ExpertSplit::kSliced).value();
  const Partition second = Partition::make(config, WeightFormat::kInt8, 1, 2, ExpertSplit::kSliced).value();
  EXPECT_EQ(first.dense_width.size(), 5504);
  EXPECT_EQ(first.dense_width.padded, 5568);
  EXPECT_EQ(group_size(WeightFormat::kInt8, first.dense_width.padded), 64);
  EXPECT_EQ(second.dense_width.begin, 5504);
  EXPECT_EQ(second.dense_width.size(), 5440);
  EXPECT_EQ(second.dense_width.padded, 5440);
}

TEST(Partition, SharesWhatDoesNotDivideInWholeGroups) {
  const ModelConfig config = lite();
  int64_t end = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const Partition part = Partition::make(config, WeightFormat::kInt4G128, rank, 4, ExpertSplit::kSliced).value();
    EXPECT_EQ(part.expert_width.begin, end);
    EXPECT_EQ(part.expert_width.size(), rank < 3 ? 384 : 256);  // 11 groups of 128: 3, 3, 3, 2
    EXPECT_EQ(part.heads.size(), 4);
    end = part.expert_width.end;
  }
  EXPECT_EQ(end, config.moe_intermediate_size);
  const auto many = Partition::make(config, WeightFormat::kInt4G128, 0, 12, ExpertSplit::kSliced);
  EXPECT_EQ(many.status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice
