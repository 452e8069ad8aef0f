#include "app/bench/cell.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sluice/clock.h"
#include "sluice/latent_codes.h"

#include "model/cache_layout.h"

namespace sluice {

namespace {

int32_t pages_of(const Cell& cell) { return (cell.depth + cell.tokens + kPageTokens - 1) / kPageTokens; }

// Uniform with mean 0 and variance 1, which is what a normalised latent has: 24 random bits over [-sqrt(3), sqrt(3)).
class LatentSource {
 public:
  explicit LatentSource(uint64_t seed) : state_(seed | 1) {}
  float next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return (static_cast<float>(state_ >> 40) * 0x1p-23f - 1) * 1.7320508f;
  }

 private:
  uint64_t state_;  // xorshift64, never 0
};

void fill_with_latents(std::byte* bytes, int64_t size, DType dtype, LatentSource& source) {
  if (dtype == DType::kF32) {
    for (int64_t i = 0; i < size; i += 4) {
      const float value = source.next();
      std::memcpy(bytes + i, &value, sizeof(value));
    }
  } else if (dtype == DType::kBF16) {
    for (int64_t i = 0; i < size; i += 2) {
      const uint16_t value = f32_to_bf16(source.next());
      std::memcpy(bytes + i, &value, sizeof(value));
    }
  } else {
    SLUICE_CHECK(false, "random latents in {} are not defined (F32, BF16 are)", name(dtype));
  }
}

// The same in an int8 cache: every layer's slice is codes of 127 steps and the scale that makes the largest sqrt(3).
void fill_with_codes(std::byte* bytes, const KvLayout& layout, const LatentCodes& codes, LatentSource& source) {
  for (size_t slot = 0; slot < layout.groups[kLatentGroup].layers.size(); ++slot) {
    std::byte* slice = bytes + layout.offset_of(kLatentGroup, static_cast<int64_t>(slot));
    for (int64_t i = 0; i < codes.scales_offset(); ++i)
      slice[i] = static_cast<std::byte>(LatentCodes::kExcess + std::lround(source.next() * (127 / 1.7320508f)));
    std::fill_n(reinterpret_cast<float*>(slice + codes.scales_offset()), int64_t{kPageTokens} * codes.num_groups(),
                1.7320508f / 127);
  }
}

// A compressor's state (CompressArgs) is no latent: it stands before `position`, and any sums but zero will do.
void fill_states(const KvPages& pages, PageId page, int32_t position) {
  for (size_t i = 0; i < pages.layout->groups.size(); ++i) {
    const CacheGroup& group = pages.layout->groups[i];
    if (group.rewindable) continue;
    for (size_t slot = 0; slot < group.layers.size(); ++slot) {
      std::byte* state =
          pages.base + value(page) * pages.bytes_per_page + pages.layout->offset_of(i, static_cast<int64_t>(slot));
      std::memcpy(state, &position, sizeof(position));
      std::fill_n(reinterpret_cast<float*>(state + kStateHeader), (group.bytes_per_entry - kStateHeader) / 4, 1.0f);
    }
  }
}

}  // namespace

std::string Cell::name() const { return fmt::format("{}{}", kind == CellKind::kPrefill ? "pp" : "tg", tokens); }

CellRunner::CellRunner(LoadedModel& loaded, uint64_t seed, const TimedCommunicator* timed)
    : loaded_(loaded),
      timed_(timed),
      random_(seed),
      executor_(*loaded.model, loaded.context(), loaded.num_pages),
      expert_seen_(static_cast<size_t>(loaded.config.n_routed_experts)) {
  observer_.routed = [this](int32_t, int64_t rows, int32_t top_k, const int32_t* experts, const float*) {
    std::fill(expert_seen_.begin(), expert_seen_.end(), uint8_t{0});
    for (int64_t i = 0; i < rows * top_k; ++i) {
      uint8_t& seen = expert_seen_[static_cast<size_t>(experts[i])];
      num_experts_seen_ += seen == 0;
      seen = 1;
    }
  };
  executor_.set_observer(&observer_);
  greedy_.temperature = 0;
}

std::string CellRunner::misfit(const Cell& cell) const {
  if (cell.depth + cell.tokens > loaded_.info.context_length)
    return fmt::format("does not fit: {} positions, the context is {}", cell.depth + cell.tokens,
                       loaded_.info.context_length);
  const int64_t pages = int64_t{cell.batch} * pages_of(cell);
  if (pages > loaded_.num_pages)
    return fmt::format("does not fit: {} pages ({} MiB), the cache has {}; see --cache-memory-mib", pages,
                       (pages * loaded_.model->kv_layout().bytes_per_page()) >> 20, loaded_.num_pages);
  if (cell.kind == CellKind::kDecode && cell.batch > loaded_.model->max_batch_tokens())
    return fmt::format("does not fit: a step has {} rows; see --scheduler-max-batch-tokens",
                       loaded_.model->max_batch_tokens());
  return "";
}

// As moves from a lower tier, which every rank follows.
void CellRunner::fill_pages(int32_t num_pages) {
  const KvPages pages = executor_.kv().pages();
  OpContext context = loaded_.context();
  std::vector<std::byte> bytes(static_cast<size_t>(pages.bytes_per_page));
  for (; num_filled_ < num_pages; ++num_filled_) {
    LatentSource source(static_cast<uint64_t>(num_filled_) * 0x9E3779B97F4A7C15);
    if (pages.dtype == DType::kI8) {
      const ModelConfig& config = loaded_.config;
      fill_with_codes(bytes.data(), *pages.layout, {config.kv_lora_rank, config.qk_rope_head_dim}, source);
    } else {
      fill_with_latents(bytes.data(), pages.bytes_per_page, pages.dtype, source);
    }
    const PageId page{num_filled_};
    StepPlan plan;
    plan.moves.push_back({.page = page, .host = bytes.data(), .to_host = false});
    const StepResult result = executor_.run(plan);
    SLUICE_CHECK(result.status.ok(), "{}", result.status.to_string());
    loaded_.model->write_means(pages, {0, 0, kPageTokens, &page}, context);
  }
}

SequenceWork CellRunner::work_of(size_t sequence, int32_t begin, int32_t end, TokenRole role) {
  const BenchSequence& one = sequences_[sequence];
  SequenceWork work;
  work.sequence = SequenceId{sequence};
  work.begin = begin;
  work.end = end;
  work.role = role;
  work.all_tokens = std::span(one.tokens).first(static_cast<size_t>(end));
  work.num_prompt_tokens = role == TokenRole::kPrompt ? end : 0;
  work.pages = one.pages;
  work.sampling = &greedy_;
  return work;
}

void CellRunner::run_step(StepPlan& plan, CellRun& run) {
  const StepResult result = executor_.run(plan);
  SLUICE_CHECK(result.status.ok(), "{}", result.status.to_string());
  run.steps += 1;
  plan.work.clear();
}

// Of `position` positions what attention reads, averaged over the layers.
int64_t CellRunner::positions_read(int64_t position) const {
  if (!loaded_.config.block_global) return position;
  const BlockGlobalConfig& mode = *loaded_.config.block_global;
  const int64_t layers = loaded_.config.num_hidden_layers, full = mode.num_full(loaded_.config.num_hidden_layers);
  return (full * position + (layers - full) * std::min<int64_t>(position, mode.pages * kPageTokens)) / layers;
}

// All sequences one behind the other, in steps of as many rows as the server's budget allows; chunks end at page
// borders, as the scheduler's do.
void CellRunner::prefill(const Cell& cell, CellRun& run) {
  const auto budget = static_cast<int32_t>(loaded_.model->max_batch_tokens());
  const int32_t end = cell.depth + cell.tokens;
  StepPlan plan;
  int32_t room = budget;
  for (size_t sequence = 0; sequence < sequences_.size(); ++sequence) {
    for (int32_t begin = cell.depth; begin < end;) {
      int32_t stop = std::min(end, begin + room);
      if (stop < end) stop -= stop % kPageTokens;
      if (stop <= begin) {
        run_step(plan, run);
        room = budget;
        continue;
      }
      plan.work.push_back(work_of(sequence, begin, stop, TokenRole::kPrompt));
      plan.work.back().samples = stop == end;
      room -= stop - begin;
      begin = stop;
    }
  }
  run_step(plan, run);
}

void CellRunner::decode(const Cell& cell, CellRun& run) {
  StepPlan plan;
  for (int32_t position = cell.depth; position < cell.depth + cell.tokens; ++position) {
    for (size_t sequence = 0; sequence < sequences_.size(); ++sequence) {
      plan.work.push_back(work_of(sequence, position, position + 1, TokenRole::kGenerated));
      plan.work.back().samples = true;
    }
    run_step(plan, run);
    run.cached_positions += cell.batch * positions_read(position + 1);
  }
}

CellRun CellRunner::run(const Cell& cell) {
  const int32_t num_pages = pages_of(cell);
  fill_pages(cell.batch * num_pages);
  sequences_.resize(static_cast<size_t>(cell.batch));
  int32_t next_page = 0;
  for (BenchSequence& one : sequences_) {
    one.tokens.resize(static_cast<size_t>(cell.depth + cell.tokens));
    for (TokenId& token : one.tokens)
      token = static_cast<TokenId>(random_() % static_cast<uint64_t>(loaded_.config.vocab_size));
    one.pages.resize(static_cast<size_t>(num_pages));
    for (PageId& page : one.pages) page = PageId{next_page++};
    if (cell.depth > 0)
      fill_states(executor_.kv().pages(), one.pages[static_cast<size_t>((cell.depth - 1) / kPageTokens)], cell.depth);
  }
  CellRun run;
  num_experts_seen_ = 0;
  if (timed_) run.first_operation = timed_->num_operations();
  const TimePoint begin = std::chrono::steady_clock::now();
  if (cell.kind == CellKind::kPrefill) {
    prefill(cell, run);
  } else {
    decode(cell, run);
  }
  run.seconds = seconds(std::chrono::steady_clock::now() - begin);
  if (timed_) run.last_operation = timed_->num_operations();
  run.experts = num_experts_seen_;
  return run;
}

}  // namespace sluice
