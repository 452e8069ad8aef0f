#include "tokenizer/tokenizer.h"

#include <fstream>
#include <sstream>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/nfc.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocabulary.h"

namespace sluice {

struct Tokenizer::Impl {
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  Vocabulary vocabulary;
  Bpe bpe;  // points into `vocabulary`
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  bool adds_bos = false;
  bool nfc = false;
  std::string chat_template;

  Status build(TokenizerSpec spec);
  Status apply(TokenizerConfig config, const std::optional<std::string>& template_bos);
  Status append(std::string_view text, SpecialTokens special, PieceBuffer* buffer, std::vector<TokenId>* ids) const;
};

namespace {

// The whole file; nothing if there is none that can be read.
std::optional<std::string> read_file(const std::string& path) {
  const std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream content;
  content << file.rdbuf();
  if (!content) return std::nullopt;
  return std::move(content).str();
}

}  // namespace

Result<Tokenizer> Tokenizer::load(const std::string& directory) {
  const std::string path = directory + "/tokenizer.json";
  const std::optional<std::string> tokenizer_json = read_file(path);
  if (!tokenizer_json) return not_found("{}: expected a file that can be read, found none", path);
  const std::optional<std::string> config_json = read_file(directory + "/tokenizer_config.json");
  Result<Tokenizer> tokenizer = parse(*tokenizer_json, config_json.value_or(""));
  if (!tokenizer.ok()) return tokenizer.status().with_context(directory);
  return tokenizer;
}

Result<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json, std::string_view config_json) {
  SLUICE_ASSIGN_OR_RETURN(TokenizerSpec spec, parse_tokenizer_json(tokenizer_json));
  SLUICE_ASSIGN_OR_RETURN(TokenizerConfig config, parse_tokenizer_config(config_json));
  const std::optional<std::string> template_bos = spec.template_bos;
  auto impl = std::make_unique<Impl>();
  SLUICE_RETURN_IF_ERROR(impl->build(std::move(spec)));
  SLUICE_RETURN_IF_ERROR(impl->apply(std::move(config), template_bos));
  return Tokenizer(std::move(impl));
}

Status Tokenizer::Impl::build(TokenizerSpec spec) {
  nfc = spec.nfc;
  SLUICE_ASSIGN_OR_RETURN(added, AddedTokens::make(spec.added_tokens));
  SLUICE_ASSIGN_OR_RETURN(vocabulary, Vocabulary::make(spec));
  SLUICE_ASSIGN_OR_RETURN(bpe, Bpe::make(&vocabulary, spec));
  SLUICE_ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizer::make(std::move(spec.stages)));
  return {};
}

Status Tokenizer::Impl::apply(TokenizerConfig config, const std::optional<std::string>& template_bos) {
  const auto resolve = [this](const std::optional<std::string>& content, std::string_view place,
                              std::optional<TokenId>* id) -> Status {
    if (!content) return {};
    const AddedTokenSpec* token = added.find(*content);
    if (token == nullptr)
      return invalid_argument("{}: expected the text of an added token, found \"{}\"", place, *content);
    *id = token->id;
    return {};
  };
  SLUICE_RETURN_IF_ERROR(resolve(template_bos, "tokenizer.json: post_processor.single", &bos));
  SLUICE_RETURN_IF_ERROR(resolve(config.bos_token, "tokenizer_config.json: bos_token", &bos));
  SLUICE_RETURN_IF_ERROR(resolve(config.eos_token, "tokenizer_config.json: eos_token", &eos));
  adds_bos = config.add_bos_token.value_or(template_bos.has_value());
  chat_template = std::move(config.chat_template);
  return {};
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Status Tokenizer::Impl::append(std::string_view text, SpecialTokens special, PieceBuffer* buffer,
                               std::vector<TokenId>* ids) const {
  const size_t valid = valid_utf8_prefix(text);
  if (valid != text.size()) return invalid_argument("text: expected UTF-8, found an invalid byte at offset {}", valid);
  for (const AddedTokens::Segment& segment : added.split(text, special)) {
    if (segment.id != AddedTokens::kOrdinary) {
      ids->push_back(segment.id);
      continue;
    }
    std::string normal;  // the pieces are views of it
    if (nfc && !surely_nfc(segment.text)) normal = to_nfc(segment.text);
    SLUICE_RETURN_IF_ERROR(pre_tokenizer.split(normal.empty() ? segment.text : normal, buffer));
    for (const std::string_view piece : buffer->pieces()) bpe.append(piece, ids);
  }
  return {};
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, bool add_bos, SpecialTokens special) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 8);  // English takes 4 to 5 bytes a token, so this mostly suffices
  if (add_bos && impl_->bos) ids.push_back(*impl_->bos);
  PieceBuffer buffer;
  SLUICE_RETURN_IF_ERROR(impl_->append(text, special, &buffer, &ids));
  return ids;
}

Result<std::vector<TokenId>> Tokenizer::encode(const std::vector<PromptPiece>& pieces) const {
  std::vector<TokenId> ids;
  PieceBuffer buffer;
  for (const PromptPiece& piece : pieces) {
    if (!piece.special) {
      SLUICE_RETURN_IF_ERROR(impl_->append(piece.text, SpecialTokens::kAsText, &buffer, &ids));
      continue;
    }
    const AddedTokenSpec* token = impl_->added.find(piece.text);
    if (token == nullptr)
      return failed_precondition(
          "tokenizer.json: added_tokens: expected \"{}\", which the chat format needs, found "
          "none",
          piece.text);
    ids.push_back(token->id);
  }
  return ids;
}

Result<std::string> Tokenizer::decode(const std::vector<TokenId>& ids, bool skip_special) const {
  Detokenizer detokenizer(*this, skip_special);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!impl_->vocabulary.contains(ids[i]))
      return invalid_argument("ids[{}]: expected the id of a token, found {}", i, ids[i]);
    text += detokenizer.push(ids[i]);
  }
  return text + detokenizer.flush();
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  return impl_->vocabulary.bytes(id);
}

bool Tokenizer::is_special(TokenId id) const {
  const AddedTokenSpec* token = impl_->added.find(id);
  return token != nullptr && token->special;
}

std::optional<TokenId> Tokenizer::id_of(std::string_view bytes) const {
  if (const AddedTokenSpec* token = impl_->added.find(bytes)) return token->id;
  const TokenId id = impl_->vocabulary.find(bytes);
  return id == Vocabulary::kNone ? std::nullopt : std::optional(id);
}

int32_t Tokenizer::vocab_size() const {
  return impl_->vocabulary.size();
}
std::optional<TokenId> Tokenizer::bos() const {
  return impl_->bos;
}
std::optional<TokenId> Tokenizer::eos() const {
  return impl_->eos;
}
bool Tokenizer::adds_bos() const {
  return impl_->adds_bos;
}
const std::string& Tokenizer::chat_template() const {
  return impl_->chat_template;
}

}  // namespace sluice
