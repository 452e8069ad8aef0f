#include "model/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "safetensors_writer.h"
#include "temp_directory.h"

namespace sluice {
namespace {

using testing::HasSubstr;

Result<TensorMap> parse(const std::string& bytes) {
  return parse_safetensors(std::as_bytes(std::span(bytes)), "m.safetensors");
}

// A length field of any value, followed by `rest`.
std::string with_length(uint64_t length, const std::string& rest) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + rest;
}

TEST(Safetensors, ReadsTensorsOfEveryDtype) {
  const std::vector<std::pair<const char*, DType>> dtypes = {
      {"F32", DType::kF32},        {"F16", DType::kF16},  {"BF16", DType::kBF16}, {"F8_E4M3", DType::kF8E4M3},
      {"F8_E8M0", DType::kF8E8M0}, {"I8", DType::kI8},    {"U8", DType::kU8},     {"I32", DType::kI32},
      {"I64", DType::kI64},        {"BOOL", DType::kBool}};
  SafetensorsWriter writer;
  for (const auto& [text, dtype] : dtypes) writer.add(text, text, {3}, std::string(3 * size_of(dtype), 'x'));
  const std::string bytes = writer.bytes();
  const Result<TensorMap> tensors = parse(bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status().to_string();
  ASSERT_EQ(tensors->size(), dtypes.size());
  for (const auto& [text, dtype] : dtypes) {
    EXPECT_EQ(tensors->at(text).dtype, dtype);
    EXPECT_EQ(tensors->at(text).shape, Shape({3}));
  }
}

TEST(Safetensors, ReadsValuesScalarsAndEmptyTensors) {
  const TempDirectory directory;
  directory.write("a.safetensors", SafetensorsWriter()
                                       .add("matrix", "F32", {2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6})
                                       .add("none", "F32", {0, 7}, "")
                                       .add("scalar", "I64", {}, std::vector<int64_t>{-9})
                                       .bytes());
  Result<SafetensorsFile> opened = SafetensorsFile::open(directory.file("a.safetensors"));
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  const SafetensorsFile file = std::move(*opened);  // views outlive a move
  EXPECT_EQ(file.find("no such"), nullptr);
  const TensorView* matrix = file.find("matrix");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->shape, Shape({2, 3}));
  float values[4];
  widen_to_f32(*matrix, 2, 4, values);
  EXPECT_THAT(values, testing::ElementsAre(3, 4, 5, 6));
  EXPECT_EQ(file.find("none")->bytes(), 0);
  ASSERT_EQ(file.find("scalar")->shape.rank, 0);
  int64_t scalar;
  std::memcpy(&scalar, file.find("scalar")->data, 8);
  EXPECT_EQ(scalar, -9);
  EXPECT_EQ(file.file_bytes(), static_cast<int64_t>(std::filesystem::file_size(file.path())));
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  // Metadata, padding behind the header, tensors in another order than their bytes, no tensor at all.
  EXPECT_TRUE(parse(safetensors_bytes(R"({"__metadata__":{"format":"pt","x":""}}   )", "")).ok());
  EXPECT_TRUE(parse(safetensors_bytes(R"({"__metadata__":null})", "")).ok());
  EXPECT_TRUE(parse(safetensors_bytes("{}", "")).ok());
  const std::string swapped = safetensors_bytes(
      R"({"a":{"shape":[1],"data_offsets":[2,4],"dtype":"F16"},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
      "abcd");
  const Result<TensorMap> tensors = parse(swapped);
  ASSERT_TRUE(tensors.ok()) << tensors.status().to_string();
  EXPECT_EQ(static_cast<char>(*tensors->at("a").data), 'c');
}

TEST(Safetensors, RefusesBadLengths) {
  const std::vector<std::pair<std::string, const char*>> cases = {
      {"", "expected at least 8 bytes, found 0"},
      {"1234567", "expected at least 8 bytes, found 7"},
      {with_length(0, ""), "header: expected to begin with '{'"},
      {with_length(3, "{}"), "header length: expected at most the file's 2 remaining bytes, found 3"},
      {with_length(uint64_t{1} << 63, "{}"),
       "header length: expected at most 104857600 bytes, found 9223372036854775808"},
      {with_length(~uint64_t{0}, "{}"), "header length: expected at most 104857600 bytes, found 18446744073709551615"},
      {with_length((100 << 20) + 1, "{}"), "header length: expected at most 104857600 bytes, found 104857601"},
      {safetensors_bytes(" {}", ""), "header: expected to begin with '{'"},
      {safetensors_bytes("{}", "x"), "expected 0 bytes of data after the header, found 1"},
  };
  for (const auto& [bytes, message] : cases) {
    const Result<TensorMap> tensors = parse(bytes);
    ASSERT_FALSE(tensors.ok()) << message;
    EXPECT_EQ(tensors.status().code(), StatusCode::kDataLoss);
    EXPECT_EQ(tensors.status().message(), std::string("m.safetensors: ") + message);
  }
}

struct BadHeader {
  const char* header;
  const char* message;
};

// Each header stands before 8 bytes of data.
void expect_refused(const std::vector<BadHeader>& cases) {
  for (const BadHeader& bad : cases) {
    const Result<TensorMap> tensors = parse(safetensors_bytes(bad.header, "01234567"));
    ASSERT_FALSE(tensors.ok()) << bad.header;
    EXPECT_EQ(tensors.status().code(), StatusCode::kDataLoss) << bad.header;
    EXPECT_EQ(tensors.status().message(), std::string("m.safetensors: ") + bad.message) << bad.header;
  }
}

TEST(Safetensors, RefusesHeadersOfAnotherForm) {
  const char* numbers = "tensor \"t\": shape: expected at most 4 non-negative integers, found ";
  const std::string array = std::string(numbers) + "an array", more = std::string(numbers) + "more numbers",
                    negative = std::string(numbers) + "-1", fraction = std::string(numbers) + "\"1.5\"",
                    huge = std::string(numbers) + "\"99999999999999999999\"", text = std::string(numbers) + "\"x\"",
                    plain = std::string(numbers) + "8";
  const char* dtype_error =
      "tensor \"t\": dtype: expected one of F32, F16, BF16, F8_E4M3, F8_E8M0, I8, U8, I32, I64, BOOL, found ";
  const std::string f128 = std::string(dtype_error) + "\"F128\"", no_text = std::string(dtype_error) + "7";
  expect_refused(
      {{"{", "header: expected JSON, found a syntax error at its byte 2"},
       {"{\"t\"", "header: expected JSON, found a syntax error at its byte 5"},
       {"{} {}", "header: expected JSON, found a syntax error at its byte 4"},
       {"{\"\xff\":{}}", "header: expected JSON, found a syntax error at its byte 3"},
       {R"({"t":7})", "tensor \"t\": expected an object, found 7"},
       {R"({"t":null})", "tensor \"t\": expected an object, found null"},
       {R"({"t":[]})", "tensor \"t\": expected an object, found an array"},
       {R"({"__metadata__":7})", "__metadata__: expected an object, found 7"},
       {R"({"__metadata__":{"a":7}})", "__metadata__: expected strings, found 7"},
       {R"({"__metadata__":{"a":{}}})", "__metadata__: expected strings, found an object"},
       {R"({"__metadata__":{},"__metadata__":{}})", "__metadata__: expected once, found twice"},
       {R"({"t":{}})", "tensor \"t\": dtype: expected a value, found no such key"},
       {R"({"t":{"dtype":"U8","shape":[8]}})", "tensor \"t\": data_offsets: expected a value, found no such key"},
       {R"({"t":{"dtype":"U8","data_offsets":[0,8]}})", "tensor \"t\": shape: expected a value, found no such key"},
       {R"({"t":{"dtype":"U8","dtype":"U8"}})", "tensor \"t\": dtype: expected once, found twice"},
       {R"({"t":{"shape":[],"shape":[]}})", "tensor \"t\": shape: expected once, found twice"},
       {R"({"t":{"strides":[1]}})", "tensor \"t\": expected dtype, shape and data_offsets, found \"strides\""},
       {R"({"t":{"dtype":"F128"}})", f128.c_str()},
       {R"({"t":{"dtype":7}})", no_text.c_str()},
       {R"({"t":{"shape":[[1]]}})", array.c_str()},
       {R"({"t":{"shape":[1,1,1,1,1]}})", more.c_str()},
       {R"({"t":{"shape":[-1]}})", negative.c_str()},
       {R"({"t":{"shape":[1.5]}})", fraction.c_str()},
       {R"({"t":{"shape":[99999999999999999999]}})", huge.c_str()},
       {R"({"t":{"shape":["x"]}})", text.c_str()},
       {R"({"t":{"shape":8}})", plain.c_str()},
       {R"({"t":{"data_offsets":[0]}})",
        "tensor \"t\": data_offsets: expected two non-negative integers, found fewer numbers"},
       {R"({"t":{"data_offsets":[0,8,9]}})",
        "tensor \"t\": data_offsets: expected two non-negative integers, found more numbers"},
       {R"({"t":{"data_offsets":[-1,8]}})",
        "tensor \"t\": data_offsets: expected two non-negative integers, found -1"}});
}

TEST(Safetensors, RefusesWrongPlaces) {
  expect_refused({{R"({"t":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})",
                   "tensor \"t\": data_offsets: expected at most 8 bytes of data, found [0, 9]"},
                  {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]}})",
                   "tensor \"t\": data_offsets: expected begin <= end, found [18446744073709551615, 0]"},
                  {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}})",
                   "tensor \"t\": data_offsets: expected at most 8 bytes of data, found [18446744073709551614, "
                   "18446744073709551615]"},
                  {R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
                   "tensor \"t\": data_offsets: expected 12 bytes for F32 [3], found [0, 8], 8 bytes"},
                  {R"({"t":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})",
                   "tensor \"t\": shape: expected less than 2^63 bytes, found [4294967296, 4294967296]"},
                  {R"({"t":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8]}})",
                   "tensor \"t\": shape: expected less than 2^63 bytes, found [9223372036854775808]"},
                  {R"({"t":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}})",
                   "tensor \"t\": shape: expected less than 2^63 bytes, found [0, 18446744073709551615]"},
                  {R"({"t":{"dtype":"F32","shape":[2,4611686018427387904],"data_offsets":[0,0]}})",
                   "tensor \"t\": shape: expected less than 2^63 bytes, found [2, 4611686018427387904]"}});
}

TEST(Safetensors, RefusesOverlapsHolesAndTrailingBytes) {
  expect_refused(
      {{R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
        "tensor \"b\": data_offsets: expected to begin at 5, where the tensor before it ends, found 4 (overlap)"},
       {R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
        "tensor \"b\": data_offsets: expected to begin at 8, where the tensor before it ends, found 0 (overlap)"},
       {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
        "tensor \"b\": data_offsets: expected to begin at 3, where the tensor before it ends, found 4 (hole)"},
       {R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[1,8]}})",
        "tensor \"a\": data_offsets: expected to begin at 0, where the tensor before it ends, found 1 (hole)"},
       {R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[0,7]}})",
        "expected 7 bytes of data after the header, found 8"},
       {R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
        "tensor \"t\": expected once, found twice"}});
}

// A header may be 100 MiB; hostile ones must not take many times that. Deep nesting ends at its first bracket.
TEST(Safetensors, DeepNestingEndsAtOnce) {
  const Result<TensorMap> tensors = parse(safetensors_bytes("{\"t\":{\"shape\":" + std::string(8 << 20, '['), ""));
  EXPECT_THAT(tensors.status().message(), HasSubstr("tensor \"t\": shape: expected at most 4 non-negative integers"));
}

TEST(Safetensors, LongOrStrangeNamesMakeShortOneLineErrors) {
  const std::string name = "a\\n\\u0000" + std::string(1 << 20, 'x');
  const std::string message = parse(safetensors_bytes("{\"" + name + "\":7}", "")).status().message();
  EXPECT_LT(message.size(), 200u);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_THAT(message, HasSubstr(R"(tensor "a\n\u0000xxx)"));
}

// Cut anywhere, a file is refused before anything of it is used.
TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string whole = SafetensorsWriter()
                                .add("a", "F32", {2, 2}, std::vector<float>{1, 2, 3, 4})
                                .add("b", "BF16", {3}, std::vector<uint16_t>{1, 2, 3})
                                .bytes();
  ASSERT_TRUE(parse(whole).ok());
  const TempDirectory directory;
  for (size_t size = 0; size < whole.size(); ++size) {
    directory.write("cut.safetensors", whole.substr(0, size));
    const Result<SafetensorsFile> file = SafetensorsFile::open(directory.file("cut.safetensors"));
    ASSERT_FALSE(file.ok()) << size;
    EXPECT_EQ(file.status().code(), StatusCode::kDataLoss) << size;
    EXPECT_THAT(file.status().message(), HasSubstr(directory.file("cut.safetensors") + ": "));
  }
}

TEST(Safetensors, RefusesWhatIsNoRegularFile) {
  const TempDirectory directory;
  EXPECT_EQ(SafetensorsFile::open(directory.file("none")).status().message(),
            directory.file("none") + ": no such file");
  EXPECT_EQ(SafetensorsFile::open(directory.file("none")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::open(directory.path()).status().code(), StatusCode::kFailedPrecondition);
  ASSERT_EQ(mkfifo(directory.file("fifo").c_str(), 0600), 0);
  EXPECT_EQ(SafetensorsFile::open(directory.file("fifo")).status().message(),
            directory.file("fifo") + ": expected a regular file, found something else");
}

}  // namespace
}  // namespace sluice
