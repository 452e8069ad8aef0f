#include "cache/prefix_tree.h"

#define XXH_INLINE_ALL  // header only: the hash of 256 bytes is inlined
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "sluice/check.h"

namespace sluice {

namespace {

// Share of all pages that may be guarded. Measured on two public request traces (tests/cache/trace_replay_test.cc):
// 1/8 is at or above plain LRU at every capacity; 1/2 loses up to 1.4 points, because most prefixes are found
// just once more (the next turn of a chat) and then only block the room of newer ones.
constexpr int32_t kGuardedDivisor = 8;

// Memory of the evicted paths, for the miss reason only: 8 bytes per slot, so 128 KiB to 8 MiB.
size_t evicted_slots(int32_t num_pages) {
  return std::clamp<size_t>(std::bit_ceil(static_cast<size_t>(num_pages) * 4), 1 << 14, 1 << 20);
}

// A page has at most two nodes; more slots would be of no use, fewer would lengthen the chains.
size_t index_slots(int32_t num_pages, int32_t num_host_slots) {
  return std::bit_ceil(static_cast<size_t>(num_pages) * 2 + static_cast<size_t>(num_host_slots));
}

uint64_t hash_tokens(std::span<const TokenId> tokens, uint64_t seed) {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), seed);
}

}  // namespace

PrefixTree::PrefixTree(int32_t num_pages, int32_t num_host_slots, uint64_t hash_mask)
    : max_guarded_(num_pages / kGuardedDivisor),
      hash_mask_(hash_mask),
      index_(index_slots(num_pages, num_host_slots), kNoNode),
      page_nodes_(static_cast<size_t>(num_pages)),
      evicted_(evicted_slots(num_pages), 0) {}

// ---- roots

NodeId PrefixTree::open_root(const std::string& salt) {
  auto [place, is_new] = roots_.try_emplace(salt, kNoNode);
  if (is_new) {
    place->second = take_slot();
    edit(place->second).path_hash = XXH3_64bits(salt.data(), salt.size());
    salts_.emplace(place->second, salt);
  }
  ++edit(place->second).num_leases;
  return place->second;
}

void PrefixTree::close_root(NodeId root) {
  SLUICE_CHECK(edit(root).num_leases > 0, "root {}", value(root));
  --edit(root).num_leases;
  drop_root_if_unused(root);
}

void PrefixTree::drop_root_if_unused(NodeId root) {
  if (edit(root).num_leases > 0 || edit(root).num_children > 0) return;
  const auto salt = salts_.find(root);
  roots_.erase(salt->second);
  salts_.erase(salt);
  free_slot(root);
}

// ---- finding

uint64_t PrefixTree::hash_child(uint64_t parent_hash, std::span<const TokenId> tokens) const {
  return hash_tokens(tokens, parent_hash) & hash_mask_;
}

NodeId PrefixTree::find_child(NodeId parent, std::span<const TokenId> tokens_wanted) const {
  const uint64_t hash = hash_child(node(parent).path_hash, tokens_wanted);
  for (NodeId id = index_[hash & (index_.size() - 1)]; id != kNoNode; id = node(id).same_hash) {
    const Node& candidate = node(id);
    if (candidate.path_hash == hash && candidate.parent == parent && std::ranges::equal(tokens(id), tokens_wanted))
      return id;
  }
  return kNoNode;
}

std::span<const TokenId> PrefixTree::tokens(NodeId id) const {
  const TokenId* block = tokens_[index(id) >> kBlockBits].get();
  return {block + (index(id) & (kBlockNodes - 1)) * kPageTokens, static_cast<size_t>(node(id).num_tokens)};
}

int32_t PrefixTree::num_nodes(PageId page) const {
  const PageNodes& nodes = page_nodes_[static_cast<size_t>(value(page))];
  return (nodes.full != kNoNode) + (nodes.end != kNoNode);
}

bool PrefixTree::is_idle(PageId page) const {
  const PageNodes& nodes = page_nodes_[static_cast<size_t>(value(page))];
  return std::ranges::all_of(std::initializer_list<NodeId>{nodes.full, nodes.end},
                             [this](NodeId id) { return id == kNoNode || node(id).list != Node::List::kNone; });
}

bool PrefixTree::was_evicted(NodeId parent, std::span<const TokenId> tokens) const {
  const uint64_t hash = hash_child(node(parent).path_hash, tokens);
  return evicted_[hash & (evicted_.size() - 1)] == hash;
}

bool PrefixTree::other_salt_holds(std::span<const TokenId> tokens) const {
  return first_pages_.contains(hash_tokens(tokens, 0));
}

uint64_t PrefixTree::role_key(uint64_t parent_key, int32_t num_prompt_tokens) {
  if (parent_key == 0 && num_prompt_tokens == kPageTokens) return 0;
  const uint64_t words[2] = {parent_key, static_cast<uint64_t>(num_prompt_tokens)};
  return XXH3_64bits(words, sizeof words) | 1;  // never 0: that means no generated row at all
}

// ---- growing

NodeId PrefixTree::take_slot() {
  if (!free_slots_.empty()) {
    const NodeId id = free_slots_.back();
    free_slots_.pop_back();
    return id;
  }
  if ((static_cast<size_t>(num_slots_) & (kBlockNodes - 1)) == 0) {
    nodes_.push_back(std::make_unique<Node[]>(kBlockNodes));
    tokens_.push_back(std::make_unique<TokenId[]>(kBlockNodes * kPageTokens));
  }
  return NodeId{num_slots_++};
}

void PrefixTree::free_slot(NodeId id) {
  edit(id) = Node();
  free_slots_.push_back(id);
}

NodeId PrefixTree::insert(NodeId parent, std::span<const TokenId> tokens, PageId page, uint64_t role_key) {
  SLUICE_CHECK(!tokens.empty() && tokens.size() <= kPageTokens, "{} tokens", tokens.size());
  const NodeId id = take_slot();
  Node& added = edit(id);
  added.parent = parent;
  added.page = page;
  added.path_hash = hash_child(edit(parent).path_hash, tokens);
  added.role_key = role_key;
  added.depth = edit(parent).depth + 1;
  added.num_tokens = static_cast<int32_t>(tokens.size());
  TokenId* block = tokens_[index(id) >> kBlockBits].get();
  std::ranges::copy(tokens, block + (index(id) & (kBlockNodes - 1)) * kPageTokens);

  if (page != kNoPage) {
    NodeId& place = node_of_page(added);
    SLUICE_CHECK(place == kNoNode, "page {} has such a node already", value(page));
    place = id;
  }
  ++edit(parent).num_children;
  if (added.depth == 1 && added.num_tokens == kPageTokens) ++first_pages_[hash_tokens(tokens, 0)];
  index_insert(id);
  ++num_nodes_;
  return id;
}

NodeId PrefixTree::insert_on_host(NodeId parent, std::span<const TokenId> tokens, int32_t slot, uint64_t role_key) {
  const NodeId id = insert(parent, tokens, kNoPage, role_key);
  edit(id).host_slot = slot;
  return id;
}

void PrefixTree::set_disk(NodeId id, uint64_t record, uint64_t parent_record) {
  edit(id).disk_id = record;
  edit(id).disk_parent = parent_record;
}

const std::string& PrefixTree::salt(NodeId id) const {
  while (!node(id).is_root()) id = node(id).parent;
  return salts_.at(id);
}

void PrefixTree::set_hidden(NodeId id, std::span<const float> hidden) {
  edit(id).hidden.assign(hidden.begin(), hidden.end());
}

void PrefixTree::remove(NodeId id) {
  const Node& gone = node(id);
  SLUICE_CHECK(gone.num_children == 0 && !gone.is_root(), "node {}: {} children", value(id), gone.num_children);
  const NodeId parent = gone.parent;
  evicted_[gone.path_hash & (evicted_.size() - 1)] = gone.path_hash;
  if (gone.depth == 1 && gone.num_tokens == kPageTokens) {
    const auto count = first_pages_.find(hash_tokens(tokens(id), 0));
    if (--count->second == 0) first_pages_.erase(count);
  }
  if (gone.list != Node::List::kNone) unlink(id);
  index_remove(id);
  if (gone.page != kNoPage) node_of_page(gone) = kNoNode;
  free_slot(id);
  --num_nodes_;
  --edit(parent).num_children;
  if (node(parent).is_root()) drop_root_if_unused(parent);
}

// ---- host tier

void PrefixTree::move_to_host(NodeId id, int32_t slot) {
  Node& moved = edit(id);
  unlink(id);
  node_of_page(moved) = kNoNode;
  moved.page = kNoPage;
  moved.host_slot = slot;
  append(id, Node::List::kHost);
}

int32_t PrefixTree::move_to_device(NodeId id, PageId page) {
  Node& moved = edit(id);
  moved.page = page;
  NodeId& place = node_of_page(moved);
  SLUICE_CHECK(place == kNoNode && moved.list == Node::List::kNone, "node {}, page {}", value(id), value(page));
  place = id;
  return std::exchange(moved.host_slot, -1);
}

PrefixTree::ListEnds& PrefixTree::ends(Node::List list) {
  if (list == Node::List::kHost) return host_;
  return list == Node::List::kGuarded ? guarded_ : probation_;
}

NodeId& PrefixTree::node_of_page(const Node& wanted) {
  PageNodes& nodes = page_nodes_[static_cast<size_t>(value(wanted.page))];
  return wanted.num_tokens == kPageTokens ? nodes.full : nodes.end;
}

void PrefixTree::index_insert(NodeId id) {
  NodeId& slot = index_[edit(id).path_hash & (index_.size() - 1)];
  edit(id).same_hash = slot;
  slot = id;
}

void PrefixTree::index_remove(NodeId id) {
  NodeId* link = &index_[edit(id).path_hash & (index_.size() - 1)];
  while (*link != id) link = &edit(*link).same_hash;
  *link = edit(id).same_hash;
}

// ---- order of eviction

void PrefixTree::page_busy(PageId page) {
  const PageNodes& nodes = page_nodes_[static_cast<size_t>(value(page))];
  for (const NodeId id : {nodes.end, nodes.full})
    if (id != kNoNode && edit(id).list != Node::List::kNone) unlink(id);
}

void PrefixTree::page_idle(PageId page) {
  const PageNodes& nodes = page_nodes_[static_cast<size_t>(value(page))];
  for (const NodeId id : {nodes.end, nodes.full})
    if (id != kNoNode) make_idle(id);
}

void PrefixTree::make_idle(NodeId id) {
  append(id, edit(id).hits > 0 ? Node::List::kGuarded : Node::List::kProbation);
  shrink_guarded();
}

void PrefixTree::shrink_guarded() {
  while (guarded_.size > max_guarded_) {
    const NodeId id = guarded_.oldest;
    unlink(id);
    edit(id).hits = 0;
    append(id, Node::List::kProbation);
  }
}

NodeId PrefixTree::victim() const { return probation_.oldest != kNoNode ? probation_.oldest : guarded_.oldest; }

void PrefixTree::append(NodeId id, Node::List list) {
  ListEnds& to = ends(list);
  Node& added = edit(id);
  SLUICE_CHECK(added.list == Node::List::kNone, "node {} is in a list already", value(id));
  added.list = list;
  added.older = to.newest;
  added.newer = kNoNode;
  (to.newest == kNoNode ? to.oldest : edit(to.newest).newer) = id;
  to.newest = id;
  ++to.size;
}

void PrefixTree::unlink(NodeId id) {
  Node& gone = edit(id);
  ListEnds& from = ends(gone.list);
  (gone.older == kNoNode ? from.oldest : edit(gone.older).newer) = gone.newer;
  (gone.newer == kNoNode ? from.newest : edit(gone.newer).older) = gone.older;
  gone.older = gone.newer = kNoNode;
  gone.list = Node::List::kNone;
  --from.size;
}

// ---- invariants

void PrefixTree::check_list(const ListEnds& list, Node::List kind) const {
  int32_t count = 0;
  NodeId older = kNoNode;
  for (NodeId id = list.oldest; id != kNoNode; id = node(id).newer, ++count) {
    SLUICE_CHECK(node(id).list == kind && node(id).older == older, "node {} in list {}", value(id),
                 static_cast<int>(kind));
    older = id;
  }
  SLUICE_CHECK(older == list.newest && count == list.size, "list {}: {} linked, {} counted", static_cast<int>(kind),
               count, list.size);
}

void PrefixTree::check_node(NodeId id) const {
  const Node& checked = node(id);
  const Node& parent = node(checked.parent);
  SLUICE_CHECK(checked.path_hash == hash_child(parent.path_hash, tokens(id)), "node {}: hash", value(id));
  SLUICE_CHECK(checked.depth == parent.depth + 1, "node {}: depth", value(id));
  SLUICE_CHECK(checked.num_tokens == kPageTokens || (checked.num_children == 0 && !checked.hidden.empty()),
               "node {}: an end with {} children", value(id), checked.num_children);
  SLUICE_CHECK(checked.on_host() == (checked.page == kNoPage), "node {}: page {}, slot {}", value(id),
               value(checked.page), checked.host_slot);
  if (checked.on_host()) {
    SLUICE_CHECK(checked.list == Node::List::kHost, "node {} is held by nobody", value(id));
    return;
  }
  const PageNodes& nodes = page_nodes_[static_cast<size_t>(value(checked.page))];
  SLUICE_CHECK(nodes.full == id || nodes.end == id, "node {}: page {} is not its own", value(id), value(checked.page));
  // What makes the front of the victim list a leaf: an idle node has only idle children, in no better list.
  SLUICE_CHECK(!parent.on_host(), "node {} is on the device, its parent is not", value(id));
  if (parent.is_root()) return;
  const bool is_busy = checked.list == Node::List::kNone, parent_is_busy = parent.list == Node::List::kNone;
  SLUICE_CHECK(parent_is_busy || (!is_busy && parent.list >= checked.list), "node {}: list {}, its parent {}",
               value(id), static_cast<int>(checked.list), static_cast<int>(parent.list));
}

void PrefixTree::check_invariants() const {
  check_list(probation_, Node::List::kProbation);
  check_list(guarded_, Node::List::kGuarded);
  check_list(host_, Node::List::kHost);
  SLUICE_CHECK(guarded_.size <= max_guarded_, "{} guarded, at most {}", guarded_.size, max_guarded_);
  std::vector<int32_t> children(static_cast<size_t>(num_slots_), 0);
  int32_t count = 0;
  for (const NodeId first : index_) {
    for (NodeId id = first; id != kNoNode; id = node(id).same_hash, ++count) {
      check_node(id);
      ++children[index(node(id).parent)];
    }
  }
  SLUICE_CHECK(count == num_nodes_, "{} nodes indexed, {} counted", count, num_nodes_);
  for (int32_t slot = 0; slot < num_slots_; ++slot)
    SLUICE_CHECK(node(NodeId{slot}).num_children == children[static_cast<size_t>(slot)],
                 "node {}: {} children, {} found", slot, node(NodeId{slot}).num_children,
                 children[static_cast<size_t>(slot)]);
  for (const auto& [salt, root] : roots_)
    SLUICE_CHECK(node(root).num_children > 0 || node(root).num_leases > 0, "root {} is of no use", value(root));
}

}  // namespace sluice
