#include "server/fmaas_service.h"

#include <utility>

#include "server/calls.h"
#include "server/fmaas_answer.h"
#include "server/fmaas_batch.h"
#include "server/fmaas_request.h"

namespace sluice {

namespace {

using namespace fmaas;  // the messages of this service

constexpr const char* kCorrelationIdKey = "x-correlation-id";

// Of any request that names a model and may name an adapter.
template <typename RequestMessage>
Status check_target(const RequestMessage& request, const Services& services) {
  if (const Status status = check_model(request.model_id(), services.model); !status.ok())
    return {status.code(), "model_id" + status.message().substr(std::string_view("model").size())};
  if (!request.adapter_id().empty() || !request.prefix_id().empty())
    return failed_precondition("adapter_id: adapters are not supported");
  return {};
}

Result<CheckedRequest> check_one(const IncomingCall& call, const GenerationRequest& request, const Parameters& params,
                                 Door& door) {
  SLUICE_ASSIGN_OR_RETURN(CheckedRequest checked,
                          check_fmaas(request.text(), params, door.services(), door.fresh_seed()));
  checked.task.client_id = metadata(*call.context, kCorrelationIdKey);
  SLUICE_RETURN_IF_ERROR(check_request_id(kCorrelationIdKey, checked.task.client_id));
  return checked;
}

// Characters [start, end) of the text that each token spells; the begin-of-sequence token spells none of it.
Status add_offsets(const std::string& text, const std::vector<TokenId>& ids, const Tokenizer& tokenizer,
                   TokenizeResponse* out) {
  std::vector<uint32_t> character_of_byte;  // [bytes]
  uint32_t num_characters = 0;
  for (char byte : text) {
    if ((byte & 0xC0) != 0x80) ++num_characters;
    character_of_byte.push_back(num_characters - 1);
  }
  size_t begin = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    auto& offset = *out->add_offsets();
    const std::string_view bytes = tokenizer.token_bytes(ids[i]);
    if (i == 0 && tokenizer.adds_bos() && ids[i] == tokenizer.bos()) continue;
    if (bytes.empty() || text.compare(begin, bytes.size(), bytes) != 0)
      return failed_precondition("return_offsets: the tokens do not spell the text");
    offset.set_start(character_of_byte[begin]);
    begin += bytes.size();
    offset.set_end(character_of_byte[begin - 1] + 1);
  }
  return {};
}

// The last `count` of `items` stay.
template <typename Items>
void keep_last(int count, Items* items) {
  if (items->size() > count) items->DeleteSubrange(0, items->size() - count);
}

}  // namespace

FmaasService::FmaasService(Door& door)
    : RpcService(*GenerationRequest::descriptor()->file()->FindServiceByName("GenerationService"), door),
      services_(door.services()) {
  bind_generate();
  bind<BatchedTokenizeRequest>("Tokenize", [this](const BatchedTokenizeRequest& request) { return tokenize(request); });
  bind<ModelInfoRequest>("ModelInfo", [this](const ModelInfoRequest& request) -> Result<ModelInfoResponse> {
    SLUICE_RETURN_IF_ERROR(check_model(request.model_id(), services_.model));
    ModelInfoResponse out;
    out.set_model_kind(ModelInfoResponse::DECODER_ONLY);
    out.set_max_sequence_length(static_cast<uint32_t>(services_.model.context_length));
    out.set_max_new_tokens(static_cast<uint32_t>(services_.model.context_length));
    return out;
  });
}

void FmaasService::bind_generate() {
  bind_unary("Generate", [this](const IncomingCall& incoming, const Bytes& bytes, Bytes* response) {
    auto* call = new FmaasBatchCall(incoming, response);
    BatchedGenerationRequest batch;
    const auto check = [&]() -> Result<std::vector<CheckedRequest>> {
      SLUICE_RETURN_IF_ERROR(parse_message(bytes, &batch));
      SLUICE_RETURN_IF_ERROR(check_target(batch, services_));
      SLUICE_RETURN_IF_ERROR(check_fmaas_params(batch.params(), services_.model));
      std::vector<CheckedRequest> out;
      for (int i = 0; i < batch.requests_size(); ++i) {
        Result<CheckedRequest> checked = check_one(incoming, batch.requests(i), batch.params(), door_);
        if (!checked.ok()) return checked.status().with_context(fmt::format("requests[{}]", i));
        out.push_back(std::move(*checked));
      }
      return out;
    };
    Result<std::vector<CheckedRequest>> requests = check();  // fills `batch`
    call->start(door_, batch.params(), std::move(requests));
    return call;
  });
  bind_stream("GenerateStream", [this](const IncomingCall& incoming, const Bytes& bytes) {
    auto* call = new StreamCall(incoming);
    SingleGenerationRequest request;
    const auto check = [&]() -> Result<CheckedRequest> {
      SLUICE_RETURN_IF_ERROR(parse_message(bytes, &request));
      SLUICE_RETURN_IF_ERROR(check_target(request, services_));
      SLUICE_RETURN_IF_ERROR(check_fmaas_params(request.params(), services_.model));
      return check_one(incoming, request.request(), request.params(), door_);
    };
    call->start(door_, check(), Delivery::kStream, [&](const CheckedRequest& checked) {
      return std::make_unique<FmaasRenderer>(checked, request.params(), services_);
    });
    return call;
  });
}

Result<BatchedTokenizeResponse> FmaasService::tokenize(const BatchedTokenizeRequest& request) const {
  SLUICE_RETURN_IF_ERROR(check_target(request, services_));
  BatchedTokenizeResponse out;
  for (int i = 0; i < request.requests_size(); ++i) {
    const std::string& text = request.requests(i).text();
    v1::TokenizeRequest native;
    native.set_text(text);
    const Result<std::vector<TokenId>> ids = check_tokenize(native, services_);
    if (!ids.ok()) return ids.status().with_context(fmt::format("requests[{}]", i));
    TokenizeResponse& response = *out.add_responses();
    if (request.return_tokens())
      for (TokenId id : *ids) response.add_tokens(token_spelling(id, *services_.tokenizer));
    if (request.return_offsets()) SLUICE_RETURN_IF_ERROR(add_offsets(text, *ids, *services_.tokenizer, &response));
    int count = static_cast<int>(ids->size());
    if (request.truncate_input_tokens() > 0 && std::cmp_less(request.truncate_input_tokens(), count))
      count = static_cast<int>(request.truncate_input_tokens());
    keep_last(count, response.mutable_tokens());
    keep_last(count, response.mutable_offsets());
    response.set_token_count(static_cast<uint32_t>(count));
  }
  return out;
}

}  // namespace sluice
