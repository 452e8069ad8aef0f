#include "sluice/weight_format.h"

#include "sluice/check.h"

namespace sluice {

namespace {

struct Entry {
  WeightFormat format;
  const char* text;
};

constexpr Entry kVocabulary[] = {
    {WeightFormat::kAuto, "auto"},           {WeightFormat::kF32, "f32"},
    {WeightFormat::kBF16, "bf16"},           {WeightFormat::kInt8, "int8"},
    {WeightFormat::kInt4G32, "int4-g32"},    {WeightFormat::kInt4G64, "int4-g64"},
    {WeightFormat::kInt4G128, "int4-g128"},  {WeightFormat::kInt4G32Z, "int4-g32z"},
    {WeightFormat::kInt4G64Z, "int4-g64z"},  {WeightFormat::kInt4G128Z, "int4-g128z"},
};

// Bytes of a row of `cols` weights of `bits` bits, with `group_bytes` of scale and zero point per group; a width that
// the group does not divide takes the next smaller of 64, 32 (house rule), so the last group is never partial for real
// models.
int64_t grouped_row_bytes(int64_t cols, int64_t group, int64_t bits, int64_t group_bytes = 2) {
  while (group > 32 && cols % group != 0) group /= 2;
  return cols * bits / 8 + (cols + group - 1) / group * group_bytes;
}

}  // namespace

const char* name(WeightFormat format) {
  for (const Entry& entry : kVocabulary)
    if (entry.format == format) return entry.text;
  return "?";
}

Result<WeightFormat> parse_weight_format(std::string_view text) {
  std::string known;
  for (const Entry& entry : kVocabulary) {
    if (text == entry.text) return entry.format;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.text);
  }
  return invalid_argument("weights: expected one of {}, found \"{}\"", known, text);
}

int64_t weight_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  switch (format) {
    case WeightFormat::kF32:
      return rows * cols * 4;
    case WeightFormat::kBF16:
      return rows * cols * 2;
    case WeightFormat::kInt8:
      return rows * grouped_row_bytes(cols, 128, 8);
    case WeightFormat::kInt4G32:
      return rows * grouped_row_bytes(cols, 32, 4);
    case WeightFormat::kInt4G64:
      return rows * grouped_row_bytes(cols, 64, 4);
    case WeightFormat::kInt4G128:
      return rows * grouped_row_bytes(cols, 128, 4);
    case WeightFormat::kInt4G32Z:
      return rows * grouped_row_bytes(cols, 32, 4, 3);
    case WeightFormat::kInt4G64Z:
      return rows * grouped_row_bytes(cols, 64, 4, 3);
    case WeightFormat::kInt4G128Z:
      return rows * grouped_row_bytes(cols, 128, 4, 3);
    case WeightFormat::kAuto:
      break;
  }
  SLUICE_CHECK(false, "weight_bytes: auto must be resolved first");
}

}  // namespace sluice
