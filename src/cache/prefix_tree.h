// A radix tree over pages of tokens: which device page holds the rows of which prefix. Owns the nodes, the index that
// finds a child, and the two lists from which pages are evicted; refuses to count references (PagePool) and to decide
// when to evict (ActivationCache). Loop thread only.
//
//   salt "a"      root_a                        every edge is exactly one page of 64 tokens, because a page is also
//                 /     \                       the unit of eviction, of sharing and of the tiers: longer edges
//         [0,64) p3      [0,64) p9              would be split by each of these
//            /      \     (tokens [64,128) differ)
//     [64,128) p4    [64,128) p7
//          |             |
//     [128,150) p5   hidden of position 127     an *end*: the last, partial page of a prompt seen whole, with the
//     hidden of 149                             final hidden state of its last token. A prompt that ends at a page
//                                               border leaves its hidden state on the full node itself.
//
// A child is found by hash(parent's path hash, tokens) in one table, then by comparing parent and tokens: a hash is
// never trusted. Nothing below a node is ever needed without the node, so only nodes without children are evicted.
//
// Eviction. Idle nodes (their page is used by no sequence) are in one of two lists, oldest first:
//   probation   not found again since they came in: a long scan passes through here only
//   guarded     found again; at most an eighth of all pages, the oldest of them go back to probation
// A victim is the oldest of probation, else of guarded. Nodes enter a list leaf first, root last, so that in both
// lists a child is always older than its parent, and the front of the victim list is always a leaf: O(1) per change.
//
// Host tier. A node that leaves the device may stay in the tree with a slot of host memory instead of a page. What is
// on the device is always an upper part of the tree: below a node on the host there are only nodes on the host. They
// have a list of their own, with the same order of children before parents.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "sluice/kv_layout.h"
#include "sluice/types.h"

namespace sluice {

enum class NodeId : int32_t {};
constexpr NodeId kNoNode{-1};
constexpr int32_t value(NodeId id) { return static_cast<int32_t>(id); }

class PrefixTree {
 public:
  // At most two nodes per device page and one per host slot are stored. Tests narrow `hash_mask`: hashes collide.
  PrefixTree(int32_t num_pages, int32_t num_host_slots, uint64_t hash_mask = ~uint64_t{0});

  struct Node {
    NodeId parent = kNoNode;
    PageId page = kNoPage;   // on the device, else kNoPage
    int32_t host_slot = -1;  // in host memory, else -1
    uint64_t path_hash = 0;  // of the salt and all tokens from the root to here
    // Which rows on the path have the generated role: 0 when none. Equal tokens and equal role_key means equal bits.
    uint64_t role_key = 0;
    int32_t depth = 0;       // pages from the root, this one included
    int32_t num_tokens = 0;  // kPageTokens, or less for an end
    int32_t num_children = 0;
    int32_t num_leases = 0;      // roots: leases that stand here
    uint32_t hits = 0;           // found since it came in, or since it left the guarded list
    NodeId same_hash = kNoNode;  // next in the chain of its slot in the index
    enum class List : uint8_t { kNone, kProbation, kGuarded, kHost } list = List::kNone;
    bool is_root() const { return depth == 0; }
    bool on_host() const { return host_slot >= 0; }
    NodeId older = kNoNode, newer = kNoNode;
    std::vector<float> hidden;  // [hidden_size] of the last token, or empty
    uint64_t disk_id = 0;       // its record on the disk, 0 when none
    uint64_t disk_parent = 0;   // the record of its parent at that time
  };

  // The root of a salt is made on demand; it lives while it has children or leases.
  NodeId open_root(const std::string& salt);
  void use_root(NodeId root) { ++edit(root).num_leases; }  // one more lease of an open root
  void close_root(NodeId root);

  // The child of `parent` that holds exactly `tokens` (kPageTokens of them, or fewer: an end). kNoNode if none.
  NodeId find_child(NodeId parent, std::span<const TokenId> tokens) const;
  // A new node, in no list (busy). There must be no such child yet.
  NodeId insert(NodeId parent, std::span<const TokenId> tokens, PageId page, uint64_t role_key);
  // A new node whose rows are in host memory, held: return_host() makes it a possible victim.
  NodeId insert_on_host(NodeId parent, std::span<const TokenId> tokens, int32_t slot, uint64_t role_key);
  void set_disk(NodeId id, uint64_t record, uint64_t parent_record);
  const std::string& salt(NodeId id) const;  // of the root above
  void set_hidden(NodeId id, std::span<const float> hidden);

  // The page of the node was found by a prompt.
  void hit(NodeId id) { ++edit(id).hits; }
  // A page is used again / by nobody any more: its nodes leave / enter the lists. A path is made idle leaf first.
  void page_busy(PageId page);
  void page_idle(PageId page);
  // The node to give up next, always a leaf; kNoNode when all are busy.
  NodeId victim() const;
  // Removes a leaf from the tree, wherever its rows are.
  void remove(NodeId id);

  // An idle node without children on the device goes to host memory, as the newest there.
  void move_to_host(NodeId id, int32_t slot);
  // A held node comes back to the device; returns its slot, which holds nothing of the tree any more.
  int32_t move_to_device(NodeId id, PageId page);
  // A node on the host that a match is about to use cannot be a victim until it is returned. Returned leaf first.
  void hold_host(NodeId id) { unlink(id); }
  void return_host(NodeId id) { append(id, Node::List::kHost); }
  NodeId host_victim() const { return host_.oldest; }

  const Node& node(NodeId id) const { return nodes_[index(id) >> kBlockBits][index(id) & (kBlockNodes - 1)]; }
  std::span<const TokenId> tokens(NodeId id) const;
  // Nodes that keep this page: at most a full one and an end (a prompt's last page that was filled later).
  int32_t num_nodes(PageId page) const;
  bool is_idle(PageId page) const;             // all of these nodes are in a list
  int32_t size() const { return num_nodes_; }  // without roots
  int32_t num_guarded() const { return guarded_.size; }
  int32_t num_on_host() const { return host_.size; }

  // Was a page with this path evicted lately? Was it seen under another salt? For the trace only: both may err.
  bool was_evicted(NodeId parent, std::span<const TokenId> tokens) const;
  bool other_salt_holds(std::span<const TokenId> tokens) const;

  // role_key of a page below `parent_key` whose first num_prompt_tokens positions have the prompt role.
  static uint64_t role_key(uint64_t parent_key, int32_t num_prompt_tokens);

  void check_invariants() const;

 private:
  struct ListEnds {
    NodeId oldest = kNoNode, newest = kNoNode;
    int32_t size = 0;
  };
  static constexpr int kBlockBits = 10;
  static constexpr size_t kBlockNodes = size_t{1} << kBlockBits;

  static size_t index(NodeId id) { return static_cast<size_t>(value(id)); }
  uint64_t hash_child(uint64_t parent_hash, std::span<const TokenId> tokens) const;
  Node& edit(NodeId id) { return nodes_[index(id) >> kBlockBits][index(id) & (kBlockNodes - 1)]; }
  ListEnds& ends(Node::List list);
  NodeId& node_of_page(const Node& wanted);

  NodeId take_slot();
  void free_slot(NodeId id);
  void append(NodeId id, Node::List list);
  void unlink(NodeId id);
  void make_idle(NodeId id);
  void shrink_guarded();
  void drop_root_if_unused(NodeId root);
  void index_insert(NodeId id);
  void index_remove(NodeId id);
  void check_list(const ListEnds& list, Node::List kind) const;
  void check_node(NodeId id) const;

  const int32_t max_guarded_;
  const uint64_t hash_mask_;
  // Nodes and their tokens live in blocks, so that growth never moves (and never stalls a step).
  std::vector<std::unique_ptr<Node[]>> nodes_;
  std::vector<std::unique_ptr<TokenId[]>> tokens_;  // [kBlockNodes, kPageTokens]
  std::vector<NodeId> free_slots_;
  int32_t num_slots_ = 0;
  int32_t num_nodes_ = 0;

  std::unordered_map<std::string, NodeId> roots_;
  std::unordered_map<NodeId, std::string> salts_;
  std::vector<NodeId> index_;  // [power of two] path_hash -> first node of a chain
  struct PageNodes {
    NodeId full = kNoNode, end = kNoNode;
  };
  std::vector<PageNodes> page_nodes_;  // [num_pages]
  ListEnds probation_, guarded_, host_;

  std::vector<uint64_t> evicted_;                      // [power of two] last path hash evicted per slot
  std::unordered_map<uint64_t, int32_t> first_pages_;  // unsalted hash of first pages -> under how many salts
};

}  // namespace sluice
