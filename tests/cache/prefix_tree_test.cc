#include "cache/prefix_tree.h"

#include <gtest/gtest.h>

#include <map>

namespace sluice {
namespace {

std::vector<TokenId> page_of(TokenId token) { return std::vector<TokenId>(kPageTokens, token); }

// Whatever collides, only the node of exactly these tokens below exactly this parent is found.
TEST(PrefixTree, NeverTrustsAHash) {
  PrefixTree tree(64, 0, 3);  // four different hashes in all
  const NodeId root = tree.open_root("");
  std::map<std::pair<NodeId, TokenId>, NodeId> known;
  int32_t next_page = 0;
  std::vector<NodeId> parents = {root};
  for (TokenId token = 0; token < 4; ++token) {
    const NodeId child = tree.insert(root, page_of(token), PageId{next_page++}, 0);
    known[{root, token}] = child;
    parents.push_back(child);
    for (TokenId below = 0; below < 4; ++below)
      known[{child, below}] = tree.insert(child, page_of(below), PageId{next_page++}, 0);
  }
  tree.check_invariants();
  for (const auto& [place, node] : known) EXPECT_EQ(tree.find_child(place.first, page_of(place.second)), node);
  for (const NodeId parent : parents) EXPECT_EQ(tree.find_child(parent, page_of(9)), kNoNode);
  EXPECT_EQ(tree.find_child(root, std::vector<TokenId>(3, 0)), kNoNode);
}

TEST(PrefixTree, RootsLiveAsLongAsTheyAreOfUse) {
  PrefixTree tree(4, 0);
  const NodeId root = tree.open_root("a");
  EXPECT_NE(tree.open_root("b"), root);
  EXPECT_EQ(tree.open_root("a"), root);
  const NodeId child = tree.insert(root, page_of(1), PageId{0}, 0);
  tree.close_root(root);
  tree.close_root(root);
  tree.check_invariants();
  tree.page_idle(PageId{0});
  EXPECT_EQ(tree.victim(), child);
  tree.remove(child);  // and the root with it
  tree.check_invariants();
  EXPECT_EQ(tree.size(), 0);
}

TEST(PrefixTree, RoleKeysTellWhoGeneratedWhat) {
  EXPECT_EQ(PrefixTree::role_key(0, kPageTokens), 0u);
  const uint64_t half = PrefixTree::role_key(0, 32), none = PrefixTree::role_key(0, 0);
  EXPECT_NE(half, 0u);
  EXPECT_NE(half, none);
  EXPECT_NE(PrefixTree::role_key(half, kPageTokens), 0u);  // prompt tokens behind generated ones
  EXPECT_NE(PrefixTree::role_key(half, 0), PrefixTree::role_key(none, 0));
}

}  // namespace
}  // namespace sluice
