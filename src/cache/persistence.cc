// The disk side of the activation cache: what is saved, and what comes back after a restart. The third level is there
// for restarts only: a page that host memory had to drop is computed again, even if the disk still has it.
#include <algorithm>
#include <cstring>
#include <utility>

#include "sluice/check.h"
#include "sluice/log.h"

#include "cache/activation_cache.h"

namespace sluice {

namespace {

// Pages moved for the disk per step: at most 2 * page bytes, 4 MB for the largest model in view, well below a step.
constexpr int kSavesPerStep = 2;
// Beyond that the oldest wishes are as good as the newest, and a hit comes again.
constexpr size_t kMaxWanted = 4096;

// Builds the tree of an earlier run from its records.
class Loader {
 public:
  Loader(PrefixTree& tree, HostTier& host) : tree_(tree), host_(host) {}

  void load(const DiskRecord& record) {
    NodeId parent = kNoNode, root = kNoNode;
    if (record.parent == 0) {
      parent = root = tree_.open_root(record.salt);
    } else if (const auto place = nodes_.find(record.parent); place != nodes_.end()) {
      parent = place->second;
    }
    // The way to it is gone with an older segment, or was broken.
    if (parent != kNoNode) insert(parent, record);
    if (root != kNoNode) tree_.close_root(root);
  }

  // Into the list of victims, children first.
  int64_t finish() {
    for (auto id = order_.rbegin(); id != order_.rend(); ++id) tree_.return_host(*id);
    return std::ssize(order_);
  }

 private:
  void insert(NodeId parent, const DiskRecord& record) {
    const bool is_end = record.tokens.size() < kPageTokens;
    if (tree_.node(parent).num_tokens < kPageTokens && !tree_.node(parent).is_root()) return;
    if (is_end && record.hidden.empty()) return;
    NodeId id = tree_.find_child(parent, record.tokens);
    if (id == kNoNode) {
      const int32_t slot = host_.allocate();
      if (slot < 0) return;
      std::memcpy(host_.bytes(slot), record.page.data(), record.page.size());
      id = tree_.insert_on_host(parent, record.tokens, slot, record.role_key);
      if (!record.hidden.empty()) tree_.set_hidden(id, record.hidden);
      order_.push_back(id);
    } else if (tree_.node(id).role_key != record.role_key) {
      return;  // other rows for the same tokens: what lies below fits the one that came first only
    }
    tree_.set_disk(id, record.id, record.parent);
    nodes_[record.id] = id;
  }

  PrefixTree& tree_;
  HostTier& host_;
  std::unordered_map<uint64_t, NodeId> nodes_;  // by record
  std::vector<NodeId> order_;
};

}  // namespace

Status ActivationCache::open_disk(const DiskOptions& options) {
  SLUICE_CHECK(!saver_ && tree_.size() == 0, "the disk is opened late, or twice");
  if (!options_.enabled || host_.num_slots() == 0)
    return failed_precondition("disk tier {}: needs the cache and its host tier", options.folder.string());
  if (options.page_bytes != host_.slot_bytes())
    return invalid_argument("disk tier: pages of {} bytes, host tier: {}", options.page_bytes, host_.slot_bytes());
  Loader loader(tree_, host_);
  auto disk = DiskTier::open(options, [&](const DiskRecord& record) { loader.load(record); });
  if (!disk.ok()) return disk.status();
  stats_.loaded_pages = loader.finish();
  next_record_ = (*disk)->last_id() + 1;
  log_info("disk tier {}: {} pages read", options.folder.string(), stats_.loaded_pages);
  saver_ = std::make_unique<PageSaver>(std::move(disk).value(), options.page_bytes);
  return {};
}

bool ActivationCache::is_saved(NodeId id) const {
  const PrefixTree::Node& node = tree_.node(id);
  if (node.is_root()) return true;
  return node.disk_id != 0 && node.disk_id >= saver_->first_id() && node.disk_parent == tree_.node(node.parent).disk_id;
}

// Everything from the root to `deepest`, the root's child first: a page on the disk is of use only below its parents.
void ActivationCache::want_saved(NodeId deepest) {
  std::vector<Wanted> path;
  for (NodeId id = deepest; !tree_.node(id).is_root(); id = tree_.node(id).parent)
    path.push_back({id, tree_.node(id).path_hash});
  bool parent_is_saved = true;
  for (auto wanted = path.rbegin(); wanted != path.rend() && wanted_.size() < kMaxWanted; ++wanted) {
    parent_is_saved = parent_is_saved && is_saved(wanted->node);
    if (!parent_is_saved) wanted_.push_back(*wanted);
  }
}

void ActivationCache::plan_saves(std::vector<PageMove>& moves) {
  if (!saver_) return;
  for (int num_planned = 0; num_planned < kSavesPerStep && !wanted_.empty();) {
    const Wanted wanted = wanted_.front();
    const PrefixTree::Node& node = tree_.node(wanted.node);
    // On the host its bytes may be on their way in this very step. It is wanted again with its next hit.
    const bool is_there = !node.is_root() && node.path_hash == wanted.path_hash && !node.on_host();
    if (is_there && !is_saved(wanted.node) && is_saved(node.parent)) {
      if (!plan_save(wanted.node, moves)) return;  // all slots are being written
      ++num_planned;
    }
    wanted_.pop_front();
  }
}

bool ActivationCache::plan_save(NodeId id, std::vector<PageMove>& moves) {
  const int32_t slot = saver_->take_slot();
  if (slot < 0) return false;
  const PrefixTree::Node& node = tree_.node(id);
  Saving saving;
  saving.slot = slot;
  saving.record.id = next_record_++;
  saving.record.parent = tree_.node(node.parent).disk_id;
  saving.record.role_key = node.role_key;
  if (saving.record.parent == 0) saving.record.salt = tree_.salt(id);
  saving.record.tokens.assign(tree_.tokens(id).begin(), tree_.tokens(id).end());
  saving.record.hidden = node.hidden;
  tree_.set_disk(id, saving.record.id, saving.record.parent);
  moves.push_back({node.page, saver_->bytes(slot), true});
  saving_.push_back(std::move(saving));
  return true;
}

void ActivationCache::commit_saves() {
  for (Saving& saving : saving_) {
    ++stats_.saved_pages;
    saver_->save(std::move(saving.record), saving.slot);
  }
  saving_.clear();
}

void ActivationCache::flush_disk() {
  if (saver_) saver_->flush();
}

}  // namespace sluice
