// HTTP requests behind the parser of bytes (which is Boost.Beast's): any path and body is answered, refused with an
// error that is JSON, or becomes a generation whose answer is written, whole or as events, with the input's own bytes
// as the model's text. The first line is the path, the rest the body.
#include <nlohmann/json.hpp>

#include "server/http_api.h"
#include "server/output_form.h"
#include "tests/fuzz/fuzz_services.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

struct Fixture {
  Fixture() { api.set_ready(true); }
  FuzzServices services;
  HttpApi api{services.services()};
};

void answer(HttpGeneration& generation, std::string_view bytes, const ModelInfo& model) {
  CheckedRequest checked;
  checked.task = std::move(generation.task);
  expect_sound(checked, model);
  // Text comes whole characters at a time.
  std::string text(bytes.substr(0, 300));
  text.resize(valid_utf8_prefix(text));
  const size_t half = valid_utf8_prefix(std::string_view(text).substr(0, text.size() / 2));
  const auto part = [&](std::string words, FinishReason finish) {
    AnswerStream::Batch batch;
    GenerationDelta& delta = batch.deltas.emplace_back();
    delta.text = std::move(words);
    delta.token_ids = {5};
    if (checked.task.request.num_logprobs >= 0) delta.logprobs = {{TokenLogprob{5, -1}, {TokenLogprob{6, -2}}}};
    delta.finish = finish;
    if (finish != FinishReason::kNone) batch.end.emplace();
    return batch;
  };
  if (!generation.stream) {
    const std::string body = generation.answer->whole(part(text, FinishReason::kLength));
    SLUICE_CHECK(nlohmann::json::accept(body), "{}", body);
    return;
  }
  std::string events = generation.answer->events(part(text.substr(0, half), FinishReason::kNone));
  events += generation.answer->events(part(text.substr(half), FinishReason::kStop));
  SLUICE_CHECK(events.ends_with("data: [DONE]\n\n"), "{}", events);
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sluice::Fixture fixture;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t line = std::min(text.find('\n'), text.size());
  sluice::HttpRequest request;
  request.target = std::string(text.substr(0, line));
  request.body = std::string(text.substr(std::min(text.size(), line + 1)));
  request.method = request.body.empty() ? "GET" : "POST";
  auto result = fixture.api.handle(request);
  if (auto* generation = std::get_if<sluice::HttpGeneration>(&result)) {
    sluice::answer(*generation, request.body, fixture.services.services().model);
    return 0;
  }
  const auto& response = std::get<sluice::HttpResponse>(result);
  if (response.content_type.starts_with("application/json"))
    SLUICE_CHECK(nlohmann::json::accept(response.body), "{}", response.body);
  SLUICE_CHECK(!sluice::to_wire(response, request, true).empty(), "nothing is said");
  return 0;
}
