// Block attention: the pages' means, and the choice of pages by them. A mean is one chain of f32 additions, as on the
// product path, so that both store the same bits; estimates are in double.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/ref/latent_cache.h"
#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

// Estimated attention of pages [0, count) of one row, all heads.
std::vector<double> estimate(const BlockSelectArgs& args, const PageId* pages, int32_t count, int64_t batch_row,
                             int64_t index, int64_t num_rows) {
  const int32_t rank = args.kv_lora_rank, width = rank + args.rope_dim, heads_each = args.heads / args.groups;
  std::vector<double> mass(static_cast<size_t>(count), 0.0), scores(static_cast<size_t>(count));
  std::vector<float> mean(static_cast<size_t>(width));
  for (int32_t head = 0; head < args.heads; ++head) {
    const float* absorbed = args.absorbed + (head * num_rows + index) * rank;
    const float* rope = args.q + (batch_row * args.heads + head) * (args.nope_dim + args.rope_dim) + args.nope_dim;
    for (int32_t page = 0; page < count; ++page) {
      const std::byte* entry = args.means.base + value(pages[page]) * args.means.page_stride;
      widen_to_f32({entry, args.means.dtype, Shape{args.groups * width}}, head / heads_each * width, width,
                   mean.data());
      double score = 0;
      for (int32_t d = 0; d < rank; ++d) score += double{absorbed[d]} * mean[static_cast<size_t>(d)];
      for (int32_t d = 0; d < args.rope_dim; ++d) score += double{rope[d]} * mean[static_cast<size_t>(rank + d)];
      scores[static_cast<size_t>(page)] = score * args.scale;
    }
    const double peak = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - peak);
    for (size_t page = 0; page < scores.size(); ++page) mass[page] += scores[page] / sum;
  }
  return mass;
}

}  // namespace

void block_means(const BlockMeansArgs& args, OpContext&) {
  std::vector<float> entry(static_cast<size_t>(args.width)), sum(entry.size());
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t page = span.position_begin / kPageTokens; page < span.position_end / kPageTokens; ++page) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int32_t s = page * kPageTokens; s < (page + 1) * kPageTokens; ++s) {
        widen_to_f32({entry_of(args.cache, span.pages, s, args.width), args.cache.dtype, Shape{args.width}}, 0,
                     args.width, entry.data());
        for (size_t d = 0; d < sum.size(); ++d) sum[d] += entry[d];
      }
      std::byte* target = args.means.base + value(span.pages[page]) * args.means.page_stride;
      for (int32_t d = 0; d < args.width; ++d)
        store(target, args.means.dtype, d, sum[static_cast<size_t>(d)] / kPageTokens);
    }
  }
}

void block_select(const BlockSelectArgs& args, OpContext&) {
  int64_t num_rows = 0, index = 0;
  for (const SequenceSpan& span : args.sequences) num_rows += span.position_end - span.position_begin;
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t t = span.position_begin; t < span.position_end; ++t, ++index) {
      const int32_t own = t / kPageTokens, window_begin = own - args.window_pages + 1;
      SLUICE_CHECK(own >= args.num_pages, "page {} of position {}: no more than {} pages to choose from", own, t,
                   args.num_pages);
      const std::vector<double> mass =
          estimate(args, span.pages, own, span.row_begin + t - span.position_begin, index, num_rows);
      std::vector<int32_t> order(static_cast<size_t>(window_begin - args.sink_pages));
      std::iota(order.begin(), order.end(), args.sink_pages);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return mass[static_cast<size_t>(a)] > mass[static_cast<size_t>(b)];
      });
      int32_t* out = args.pages + index * args.num_pages;
      std::iota(out, out + args.sink_pages, 0);
      std::copy_n(order.begin(), args.num_pages - args.sink_pages - args.window_pages, out + args.sink_pages);
      std::iota(out + args.num_pages - args.window_pages, out + args.num_pages, window_begin);
      std::sort(out, out + args.num_pages);
    }
  }
}

}  // namespace sluice::ref
