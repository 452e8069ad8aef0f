// The form that a client asks of an answer, in every protocol's words: checks what can be known without compiling, and
// makes an OutputForm of it. What the grammar library refuses comes later, in the name of the same field. Pure
// functions, any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/grammar.h"
#include "sluice/status.h"
#include "sluice/v1/inference.pb.h"

#include "server/json_body.h"
#include "server/services.h"
#include "server/validate.h"

namespace sluice {

constexpr size_t kMaxFormBytes = 64 << 10;  // 1,000 properties take the library 7 s (129k tokens) and 30 KiB
constexpr int kMaxFormDepth = 32;           // of nested JSON; the library's parser recurses
constexpr int kMaxFormChoices = 1024;

// None where the message is empty. FAILED_PRECONDITION where the server or the model cannot; INVALID_ARGUMENT begins
// with "form.KIND:", which is also the form's field.
Result<std::optional<OutputForm>> check_form(const v1::Form& form, const Services& services);

// The same request with the form's field as this protocol's clients know it, in an error and later.
Result<CheckedRequest> name_form(Result<CheckedRequest> checked, const std::string& name);

// vLLM's {"json": ..., "regex": ..., "choice": [...], "grammar": ..., "json_object": true, "structural_tag": ...}, of
// which one is given. Errors name `field` and key.
Status read_structured_outputs(const Json& object, const std::string& field, v1::Form* out);

// Bodies of OpenAI's API: `response_format`, and vLLM's `structured_outputs` and `guided_*` beside it. The name of the
// field that asked, or "".
Result<std::string> read_response_format(JsonBody& body, v1::Form* out);

// A structural tag for an answer that calls tools, in the layout that AnswerParser reads.
enum class ToolCalls : uint8_t {
  kWellFormed,  // an answer may be text; if it calls, then with arguments of the tool's schema
  kOne,         // it is one call
  kAny,         // it is one or more calls
};
std::string tool_call_tag(const std::vector<ToolDefinition>& tools, ToolCalls calls, const Tokenizer& tokenizer);

}  // namespace sluice
