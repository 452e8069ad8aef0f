// From a request of the native protocol to a GenerationTask: fills the defaults, checks every range, tokenises. Every
// error names the field. Server threads; pure functions but for the fresh seed, which is handed in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/status.h"
#include "sluice/v1/inference.pb.h"

#include "server/generation.h"
#include "server/services.h"

namespace sluice {

constexpr int32_t kMaxChoices = 16;
constexpr int32_t kMaxStopStrings = 16;
constexpr int32_t kMaxStopStringBytes = 256;
constexpr int32_t kMaxStopTokenIds = 64;
constexpr int32_t kMaxLogprobs = 20;
constexpr int32_t kMaxRequestIdBytes = 128;
constexpr int32_t kMaxCacheSaltBytes = 256;

// A checked request, and what of it the answer repeats.
struct CheckedRequest {
  GenerationTask task;
  bool echo = false;
  std::string prompt_text;  // with echo and a tokenizer
};

// `fresh_seed` is used where the request names none.
Result<CheckedRequest> check_generate(const v1::GenerateRequest& request, const Services& services,
                                      uint64_t fresh_seed);
Result<CheckedRequest> check_chat(const v1::ChatRequest& request, const Services& services, uint64_t fresh_seed);
// The same with messages and tools that the message type has no fields for; `request.messages` and `thinking` are not
// read.
Result<CheckedRequest> check_chat(const v1::ChatRequest& request, const std::vector<ChatMessage>& messages,
                                  const ChatOptions& options, const Services& services, uint64_t fresh_seed);
// The format that the request names, else the checkpoint's own.
Result<ChatFormat> chat_format_of(const v1::ChatRequest& request, const Services& services);

// The prompt cut to its last `max_tokens` tokens (at least 1), as token ids of `out`: of `text` if there is one, else
// of `ids`.
Status fill_last_tokens(const std::optional<std::string>& text, const google::protobuf::RepeatedField<uint32_t>& ids,
                        int32_t max_tokens, const Services& services, v1::GenerateRequest* out);

Result<std::vector<TokenId>> check_tokenize(const v1::TokenizeRequest& request, const Services& services);
Result<std::string> check_detokenize(const v1::DetokenizeRequest& request, const Services& services);

// NOT_FOUND unless `model` is empty or the one that is served.
Status check_model(const std::string& model, const ModelInfo& served);
// A client's name for a request, from `field`: at most 128 printable ASCII characters, so that it can travel as
// metadata.
Status check_request_id(const char* field, std::string_view id);

}  // namespace sluice
