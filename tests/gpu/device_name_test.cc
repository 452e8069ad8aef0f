#include "gpu/device_name.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(CudaDeviceName, NamesAnIndex) {
  EXPECT_TRUE(is_cuda_device("cuda") && is_cuda_device("cuda:3"));
  EXPECT_FALSE(is_cuda_device("cpu") || is_cuda_device("cudax"));
  EXPECT_EQ(cuda_device_index("cuda").value(), 0);
  EXPECT_EQ(cuda_device_index("cuda:12").value(), 12);
  for (const char* wrong : {"cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999"})
    EXPECT_EQ(cuda_device_index(wrong).status().code(), StatusCode::kInvalidArgument) << wrong;
}

}  // namespace
}  // namespace sluice
