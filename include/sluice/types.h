// The id types that travel between rooms. Owns no behaviour. Distinct types, so that a page is never
// passed where a sequence is meant; TokenId alone is a plain integer, because it lives in tensors.
#pragma once

#include <cstdint>
#include <functional>

namespace sluice {

// Index into the vocabulary, [0, vocab_size).
using TokenId = int32_t;

// Identity of a client's request, unique for the life of the process.
enum class RequestId : uint64_t {};

// Identity of one sequence (one of a request's n answers), unique for the life of the process.
enum class SequenceId : uint64_t {};

// Index of a page of the paged cache, [0, num_pages).
enum class PageId : int32_t {};

constexpr PageId kNoPage{-1};

constexpr uint64_t value(RequestId id) {
  return static_cast<uint64_t>(id);
}
constexpr uint64_t value(SequenceId id) {
  return static_cast<uint64_t>(id);
}
constexpr int32_t value(PageId id) {
  return static_cast<int32_t>(id);
}

// How a token came to be. It decides the form of attention that computes its row (prompt: expanded,
// generated: absorbed), so it is part of what the bits of a row depend on. Recomputation keeps it.
enum class TokenRole : uint8_t { kPrompt, kGenerated };

}  // namespace sluice
