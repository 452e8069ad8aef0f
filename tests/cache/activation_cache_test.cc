#include "cache/activation_cache.h"

#include <gtest/gtest.h>

#include <numeric>

namespace sluice {
namespace {

std::vector<TokenId> tokens_from(TokenId first, size_t count) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

const std::vector<float> kHidden = {1.0f, 2.0f};

// A prompt that comes, is computed, and goes.
MatchResult serve(ActivationCache& cache, const std::vector<TokenId>& prompt, const std::string& salt = "") {
  const auto length = static_cast<int32_t>(prompt.size());
  MatchResult found = cache.match(prompt, length, salt, true);
  cache.record(found, length);
  EXPECT_TRUE(cache.reserve(found.lease, length));
  MatchResult seen = found;  // a copy to look at; the lease is released below
  if (found.exact()) {
    cache.drop_copy_source(found.lease);
  } else {
    cache.publish(found.lease, prompt, length, length);
    cache.publish_end(found.lease, prompt, kHidden);
  }
  cache.check_invariants();
  cache.release(found.lease);
  cache.check_invariants();
  return seen;
}

TEST(ActivationCache, FindsTheSharedPagesAndNotMore) {
  ActivationCache cache({.num_pages = 16});
  std::vector<TokenId> prompt = tokens_from(0, 200);
  EXPECT_EQ(serve(cache, prompt).reason, MissReason::kCold);
  prompt[130] = 7777;  // in the third page
  const MatchResult second = serve(cache, prompt);
  EXPECT_EQ(second.num_tokens, 128);
  EXPECT_EQ(second.reason, MissReason::kCold);
  EXPECT_EQ(cache.stats().hit_tokens, 128);
  EXPECT_EQ(cache.stats().query_tokens, 400);
}

TEST(ActivationCache, AnExactRepeatBringsItsHiddenState) {
  ActivationCache cache({.num_pages = 16});
  for (const size_t length : {1u, 63u, 64u, 65u, 128u, 150u}) {
    const std::vector<TokenId> prompt = tokens_from(static_cast<TokenId>(1000 * length), length);
    EXPECT_FALSE(serve(cache, prompt).exact());
    const MatchResult again = serve(cache, prompt);
    EXPECT_EQ(again.hidden, kHidden) << length;
    EXPECT_EQ(again.num_tokens, static_cast<int32_t>(length));
    EXPECT_EQ(again.lease.copy_positions, static_cast<int32_t>(length % kPageTokens));
    EXPECT_EQ(again.lease.copy_from != kNoPage, length % kPageTokens != 0);
  }
}

TEST(ActivationCache, WithoutAnEndTheLastPageIsComputed) {
  ActivationCache cache({.num_pages = 16});
  serve(cache, tokens_from(0, 192));
  const MatchResult shorter = serve(cache, tokens_from(0, 128));
  EXPECT_EQ(shorter.num_tokens, 64);
  EXPECT_EQ(shorter.reason, MissReason::kPartialPage);
}

TEST(ActivationCache, SaltsShareNothing) {
  ActivationCache cache({.num_pages = 16});
  serve(cache, tokens_from(0, 100), "red");
  EXPECT_EQ(serve(cache, tokens_from(0, 100), "blue").reason, MissReason::kSalt);
  EXPECT_TRUE(serve(cache, tokens_from(0, 100), "red").exact());
  EXPECT_EQ(serve(cache, tokens_from(9, 100), "blue").reason, MissReason::kCold);
}

TEST(ActivationCache, EvictsTheOldestLeafFirstAndRemembersThat) {
  ActivationCache cache({.num_pages = 4});
  serve(cache, tokens_from(0, 128));
  serve(cache, tokens_from(1000, 128));
  serve(cache, tokens_from(2000, 64));
  EXPECT_EQ(cache.stats().evicted_pages, 1);
  const MatchResult back = serve(cache, tokens_from(0, 129));
  EXPECT_EQ(back.num_tokens, 64);
  EXPECT_EQ(back.reason, MissReason::kEvicted);
}

TEST(ActivationCache, AScanDoesNotEvictWhatWasFoundTwice) {
  ActivationCache cache({.num_pages = 32});
  const std::vector<TokenId> hot = tokens_from(0, 200);
  serve(cache, hot);
  serve(cache, hot);
  for (TokenId i = 1; i < 50; ++i) serve(cache, tokens_from(i * 10'000, 640));
  EXPECT_TRUE(serve(cache, hot).exact());
  EXPECT_LE(cache.tree().num_guarded(), 4);
}

TEST(ActivationCache, UsedPagesAreNeverEvicted) {
  ActivationCache cache({.num_pages = 4});
  serve(cache, tokens_from(0, 128));
  MatchResult held = cache.match(tokens_from(0, 129), 129, "", true);
  EXPECT_EQ(held.lease.pages.size(), 2u);
  Lease other = cache.open("");
  EXPECT_FALSE(cache.reserve(other, 3 * kPageTokens));
  EXPECT_TRUE(other.pages.empty());  // all or nothing
  EXPECT_TRUE(cache.reserve(other, 2 * kPageTokens));
  cache.check_invariants();
  cache.release(other);
  cache.release(held.lease);
  EXPECT_EQ(cache.num_available(), 4);
}

TEST(ActivationCache, EqualPagesAreKeptOnce) {
  ActivationCache cache({.num_pages = 8});
  const std::vector<TokenId> prompt = tokens_from(0, 128);
  Lease a = cache.open(""), b = cache.open("");
  ASSERT_TRUE(cache.reserve(a, 128) && cache.reserve(b, 128));
  cache.publish(a, prompt, 128, 128);
  cache.publish(b, prompt, 128, 128);
  EXPECT_EQ(a.pages, b.pages);
  EXPECT_EQ(cache.stats().deduplicated_pages, 2);
  EXPECT_EQ(cache.pool().num_used(), 2);
  cache.check_invariants();
  cache.release(a);
  cache.release(b);
  EXPECT_EQ(cache.pool().num_cached(), 2);
}

TEST(ActivationCache, OtherRolesAreOtherBits) {
  ActivationCache cache({.num_pages = 8});
  const std::vector<TokenId> tokens = tokens_from(0, 129);
  Lease generated = cache.open(""), prompt = cache.open("");
  ASSERT_TRUE(cache.reserve(generated, 128) && cache.reserve(prompt, 128));
  cache.publish(generated, tokens, 128, 10);
  cache.publish(prompt, tokens, 128, 128);
  EXPECT_NE(generated.pages, prompt.pages);
  EXPECT_FALSE(prompt.publishes);
  // The same sequence finds its own rows again, another cut of the roles does not, a later prompt may.
  const auto found = [&](int32_t num_prompt) {
    MatchResult match = cache.match(tokens, num_prompt, "", true);
    cache.release(match.lease);
    return match.num_tokens;
  };
  EXPECT_EQ(found(10), 128);
  EXPECT_EQ(found(11), 0);
  EXPECT_EQ(found(129), 128);
  cache.release(generated);
  cache.release(prompt);
  cache.check_invariants();
}

TEST(ActivationCache, PromptsDoNotFindGeneratedPagesWhenThatIsOff) {
  ActivationCache cache({.num_pages = 8, .reuse_generated = false});
  const std::vector<TokenId> tokens = tokens_from(0, 129);
  Lease lease = cache.open("");
  ASSERT_TRUE(cache.reserve(lease, 128));
  cache.publish(lease, tokens, 128, 64);
  cache.release(lease);
  MatchResult later = cache.match(tokens, 129, "", true);
  EXPECT_EQ(later.num_tokens, 64);
  cache.release(later.lease);
  MatchResult itself = cache.match(tokens, 64, "", true);
  EXPECT_EQ(itself.num_tokens, 128);
  cache.release(itself.lease);
}

TEST(ActivationCache, ForksShareFullPagesAndCopyThePartialOne) {
  ActivationCache cache({.num_pages = 8, .enabled = false});
  Lease first = cache.open("");
  ASSERT_TRUE(cache.reserve(first, 150));
  Lease second = cache.fork(first, 150);
  EXPECT_EQ(second.pages, std::vector(first.pages.begin(), first.pages.begin() + 2));
  EXPECT_EQ(second.copy_from, first.pages[2]);
  EXPECT_EQ(second.copy_positions, 150 - 128);
  cache.release(first);
  EXPECT_EQ(cache.pool().num_used(), 3);  // the source is held until the copy is done
  ASSERT_TRUE(cache.reserve(second, 150));
  cache.drop_copy_source(second);
  EXPECT_EQ(cache.pool().num_used(), 3);
  cache.release(second);
  EXPECT_EQ(cache.pool().num_free(), 8);
  cache.check_invariants();
}

TEST(ActivationCache, DisabledFindsNothing) {
  ActivationCache cache({.num_pages = 8, .enabled = false});
  serve(cache, tokens_from(0, 100));
  EXPECT_EQ(serve(cache, tokens_from(0, 100)).reason, MissReason::kDisabled);
  EXPECT_EQ(cache.pool().num_free(), 8);
}

}  // namespace
}  // namespace sluice
