// The activation cache in front of the scheduler: what was computed once is found again. Owns the page pool and the
// prefix tree over it; hands out leases (the pages of one sequence). Refuses to know requests, batches, time or
// device memory: it sees token ids and page ids. Called by the scheduler; loop thread only.
//
//   match() -> lease with the pages already computed        reserve() -> pages for what will be computed
//   publish() -> full pages become findable                 release() -> what nobody keeps is free again
//
//   num_pages = free + used by leases + cached (kept by the tree alone, evicted when a reserve() needs them)
//
// Tiers. An evicted page moves to host memory if there is any, and back when it is found; only the engine touches
// device memory, so both are PageMoves of the plan. What was found again is saved to disk beside the loop
// (persistence.cc) and read into host memory at the next start.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "sluice/kv_layout.h"
#include "sluice/plan.h"
#include "sluice/types.h"

#include "cache/host_tier.h"
#include "cache/page_pool.h"
#include "cache/page_saver.h"
#include "cache/prefix_tree.h"

namespace sluice {

struct CacheOptions {
  int32_t num_pages = 0;        // device pages, used and cached together
  bool enabled = true;          // false: pages are only lent, nothing is ever found again
  // Whether a page that is not full may be cut back (KvLayout::rewindable()). Else the partial last page of a prompt is
  // not kept: the sequence that goes on writing into it changes more than what lies behind the prompt.
  bool rewindable = true;
  bool reuse_generated = true;  // pages with generated tokens may be matched by a later prompt (house rule of roles)
  int32_t num_host_pages = 0;   // evicted pages stay in host memory; 0: no host tier
  int64_t page_bytes = 0;       // KvLayout::bytes_per_page(); needed for the host tier only
};

// Why a prompt was not found whole; for the trace.
enum class MissReason : uint8_t {
  kNone,            // nothing to compute: an exact repeat
  kCold,            // never seen
  kEvicted,         // seen, but its pages were needed
  kSalt,            // known under another tenant's salt only
  kPartialPage,     // all pages before the last one were found, but not the prompt's end
  kPromptLogprobs,  // the request wants every prompt position computed
  kDisabled,
};
const char* name(MissReason reason);  // "cold"

// The pages of one sequence. Made by match(), given back by release(); in between they belong to the sequence.
//
//   pages      | p0 | p1 | p2 | p3 | p4 |
//              |-- published --|
//                         node ^
struct Lease {
  std::vector<PageId> pages;   // cover positions [0, pages.size() * kPageTokens)
  NodeId root = kNoNode;       // of the salt; kNoNode when the cache is off
  NodeId node = kNoNode;       // tree node of pages[num_published - 1], or the root
  int32_t num_published = 0;   // pages[0, num_published) are the tree's pages
  bool publishes = false;      // false once the tree holds other bits for the same tokens, or the cache is off
  PageId copy_from = kNoPage;  // pages.back() must start as a copy of this page; held until drop_copy_source()
  int32_t copy_positions = 0;  // so many positions of it
};

struct MatchResult {
  Lease lease;
  int32_t num_tokens = 0;          // found: a multiple of kPageTokens, or all tokens when exact
  int32_t num_host_tokens = 0;     // of these, in host memory
  std::vector<NodeId> on_host;     // full pages behind the lease's, held until take() or abandon()
  int32_t num_generated_role = 0;  // of these, on pages that hold rows of the generated role
  std::vector<float> hidden;       // exact: final hidden state of the last token
  NodeId end = kNoNode;            // exact: where the prompt ends in the tree
  MissReason reason = MissReason::kCold;
  bool exact() const { return !hidden.empty(); }
  // The last full page that was found, or the root.
  NodeId deepest() const { return on_host.empty() ? lease.node : on_host.back(); }
};

struct CacheStats {
  int64_t queries = 0;  // match() calls of new prompts
  int64_t query_tokens = 0;
  int64_t hit_tokens = 0;            // found
  int64_t hit_tokens_generated = 0;  // of these, on pages with rows of the generated role
  int64_t hit_tokens_host = 0;       // of these, in host memory
  int64_t exact_hits = 0;
  int64_t evicted_pages = 0;       // left the device
  int64_t host_evicted_pages = 0;  // left host memory, too
  int64_t saved_pages = 0;         // handed to the disk
  int64_t loaded_pages = 0;        // read from the disk at the start
  int64_t published_pages = 0;
  int64_t deduplicated_pages = 0;  // computed twice at the same time, one copy dropped
};

class ActivationCache {
 public:
  explicit ActivationCache(const CacheOptions& options);

  // Finds the longest known prefix of tokens[0, length) and holds it. tokens[0, num_prompt_tokens) have the prompt
  // role. At least the last token stays to be computed, unless allow_exact and the prompt was seen whole.
  MatchResult match(std::span<const TokenId> tokens, int32_t num_prompt_tokens, const std::string& salt,
                    bool allow_exact);
  // The match is used for a new request: counts it, and makes what was found harder to evict. (A preempted request
  // that comes back is no sign of popularity.)
  void record(const MatchResult& found, int64_t num_prompt_tokens);
  // Makes the lease of the match cover [0, num_tokens) and brings back what is in host memory. False: there are not
  // enough pages, and the match is abandoned.
  bool take(MatchResult& found, int32_t num_tokens);
  void abandon(MatchResult& found);
  // The empty lease of a request that must not or cannot use what is cached (its pages may still be published).
  Lease open(const std::string& salt);
  // A second lease on the first num_tokens positions: full pages are shared, a partial one is to be copied (copy_from).
  Lease fork(const Lease& lease, int32_t num_tokens);

  // Extends the lease to cover [0, num_tokens), evicting cached pages if it must. All or nothing.
  bool reserve(Lease& lease, int32_t num_tokens);
  // Pages that reserve() could still hand out.
  int32_t num_available() const { return pool_.num_free() + pool_.num_cached(); }

  // Makes the full pages of tokens[0, num_tokens) findable; all of them must be computed. Pages with generated tokens
  // are found by the same sequence when it comes back, and by later prompts if reuse_generated.
  void publish(Lease& lease, std::span<const TokenId> tokens, int32_t num_tokens, int32_t num_prompt_tokens);
  // Makes the whole prompt findable with its final hidden state. Its full pages must be published.
  void publish_end(const Lease& lease, std::span<const TokenId> prompt, std::span<const float> hidden);
  // The copy is done (or given up): the source is held no longer.
  void drop_copy_source(Lease& lease);
  void release(Lease& lease);
  // The page moves since the last call, in the order in which they must happen, before anything else of the step.
  void take_moves(std::vector<PageMove>& moves);
  // Reads what an earlier run has saved into host memory, and saves from now on what is found again, beside the loop.
  // FAILED_PRECONDITION without a host tier. Once, before the first request.
  Status open_disk(const DiskOptions& options);
  // At the end of a plan that computes something: moves of pages that are to be saved, a few per step.
  void plan_saves(std::vector<PageMove>& moves);
  // The moves of the last plan are done.
  void commit_saves();
  // Waits until all that was handed to the disk is there. For a clean end, and tests.
  void flush_disk();
  // The contents of pages are not to be trusted any more (a step failed). Only while there are no leases.
  void forget_all();

  const CacheOptions& options() const { return options_; }
  const PagePool& pool() const { return pool_; }
  const PrefixTree& tree() const { return tree_; }
  const HostTier& host() const { return host_; }
  const CacheStats& stats() const { return stats_; }

  // Aborts when pool, tree and lists disagree. Linear in what is stored: for tests and debug builds.
  void check_invariants() const;

 private:
  void find_pages(MatchResult& found, std::span<const TokenId> tokens, int32_t num_prompt_tokens);
  void hold(MatchResult& found, NodeId id);
  bool find_end(MatchResult& found, std::span<const TokenId> prompt);
  MissReason miss_reason(const MatchResult& found, std::span<const TokenId> tokens) const;
  void evict_one();
  int32_t make_host_slot();
  void drop_host_victim();
  bool is_saved(NodeId id) const;
  void want_saved(NodeId deepest);
  bool plan_save(NodeId id, std::vector<PageMove>& moves);
  void use_page(PageId page);
  void unuse_page(PageId page);

  const CacheOptions options_;
  PagePool pool_;
  PrefixTree tree_;
  HostTier host_;
  std::vector<PageMove> moves_;
  CacheStats stats_;

  // Disk: what was found again is wanted there, parents first.
  struct Wanted {
    NodeId node = kNoNode;
    uint64_t path_hash = 0;  // tells whether the node is still the one that was meant
  };
  struct Saving {
    DiskRecord record;
    int32_t slot = -1;
  };
  std::unique_ptr<PageSaver> saver_;
  std::deque<Wanted> wanted_;
  std::vector<Saving> saving_;  // their moves are in the plan
  uint64_t next_record_ = 1;
};

}  // namespace sluice
