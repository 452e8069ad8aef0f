// What a tokenizer.json and a tokenizer_config.json may hold, and how a file that we cannot run is refused.
#include "tests/tokenizer/golden.h"

namespace sluice {
namespace {

using nlohmann::json;

// A change of the good file at one place, and what the error must then say.
struct BadFile {
  const char* place;  // JSON pointer
  json value;
  StatusCode code;
  const char* message;  // a part of it
};

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
constexpr StatusCode kUnsupported = StatusCode::kFailedPrecondition;

void expect_refused(const std::vector<BadFile>& files) {
  const json good = testing::golden("v2_stages.json");
  for (const BadFile& bad : files) {
    json file = good;
    file[json::json_pointer(bad.place)] = bad.value;
    const Result<Tokenizer> tokenizer = Tokenizer::parse(file.dump(), "");
    ASSERT_FALSE(tokenizer.ok()) << bad.place << " = " << bad.value;
    EXPECT_EQ(tokenizer.status().code(), bad.code) << tokenizer.status().to_string();
    EXPECT_NE(tokenizer.status().message().find(bad.message), std::string::npos) << tokenizer.status().to_string();
    EXPECT_TRUE(tokenizer.status().message().starts_with("tokenizer.json")) << tokenizer.status().to_string();
  }
}

TEST(TokenizerJson, RefusesWhatItCannotRun) {
  expect_refused({
      {"/truncation", {{"max_length", 512}}, kUnsupported, "truncation: expected null, found an object"},
      {"/surprise", 1, kUnsupported, "unknown key \"surprise\""},
      {"/version", "2.0", kUnsupported, "version: expected \"1.0\", found \"2.0\""},
      {"/normalizer", {{"type", "NFKC"}}, kUnsupported, "normalizer.type: expected NFC or Sequence, found \"NFKC\""},
      {"/pre_tokenizer/pretokenizers/2/type", "X", kUnsupported,
       "pre_tokenizer.pretokenizers[2].type: expected one of Split, Digits, ByteLevel, found \"X\""},
      {"/pre_tokenizer/type", "Metaspace", kUnsupported, "pre_tokenizer.type: expected Sequence or ByteLevel"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Sideways", kUnsupported, "pretokenizers[0].behavior: expected one"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(?<=a)b", kUnsupported, "pretokenizers[0].pattern.Regex: "},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "a*", kUnsupported, "can match the empty text"},
      {"/pre_tokenizer/pretokenizers/6", {{"type", "Digits"}}, kUnsupported, "ends with ByteLevel"},
      {"/pre_tokenizer/pretokenizers/-",
       {{"type", "Digits"}},
       kUnsupported,
       "pretokenizers[7]: expected nothing after"},
      {"/post_processor/type", "BertProcessing", kUnsupported, "post_processor.type: expected one of"},
      {"/decoder/type", "WordPiece", kUnsupported, "decoder.type: expected \"ByteLevel\", found \"WordPiece\""},
      {"/model/type", "Unigram", kUnsupported, "model.type: expected \"BPE\", found \"Unigram\""},
      {"/model/dropout", 0.1, kUnsupported, "model.dropout: expected null, found 0.1"},
      {"/model/unk_token", "<unk>", kUnsupported, "model.unk_token: expected null"},
      {"/model/byte_fallback", true, kUnsupported, "model.byte_fallback: expected false, found true"},
      {"/model/end_of_word_suffix", "</w>", kUnsupported, "model.end_of_word_suffix: expected \"\""},
      {"/added_tokens/0/lstrip", true, kUnsupported, "added_tokens[0].lstrip: expected false, found true"},
      {"/added_tokens/0/rstrip", true, kUnsupported, "added_tokens[0].rstrip: expected false, found true"},
      {"/added_tokens/0/single_word", true, kUnsupported, "added_tokens[0].single_word: expected false, found true"},
  });
}

TEST(TokenizerJson, RefusesBrokenContent) {
  expect_refused({
      {"/added_tokens", 3, kInvalid, "added_tokens: expected an array, found 3"},
      {"/added_tokens/1/id", -1, kInvalid, "added_tokens[1].id: expected an integer in [0, "},
      {"/added_tokens/1/id", 1u << 31, kInvalid, "added_tokens[1].id: expected an integer in [0, "},
      {"/added_tokens/1/id", 5, kInvalid, "which model.vocab gives to another entry"},
      {"/added_tokens/1/id", 1000, kInvalid, "added_tokens[1].id: expected an id of its own"},
      {"/added_tokens/1/content", "!", kInvalid, "for \"!\", as in model.vocab, found 1001"},
      {"/added_tokens/1/content", "", kInvalid, "added_tokens[1].content: expected a text that is not empty"},
      {"/added_tokens/1/content", "<｜begin▁of▁sentence｜>", kInvalid, "added_tokens[1].content: expected a text of"},
      {"/added_tokens/1/special", "yes", kInvalid, "added_tokens[1].special: expected true or false, found \"yes\""},
      {"/model/vocab", {1}, kInvalid, "model.vocab: expected an object"},
      {"/model/vocab/a", "x", kInvalid, "model.vocab.a: expected an integer in [0, "},
      {"/model/vocab/a", 1e9, kInvalid, "model.vocab.a: expected an integer in [0, "},
      {"/model/vocab/a", 7, kInvalid, "model.vocab: expected one entry with id 7, found two"},
      {"/model/merges/0", "abc", kInvalid, "model.merges[0]: expected \"LEFT RIGHT\" or [LEFT, RIGHT]"},
      {"/model/merges/0", {"a"}, kInvalid, "model.merges[0]: expected \"LEFT RIGHT\" or [LEFT, RIGHT]"},
      {"/model/merges/0", {"\xC4\xA0", "zzzz"}, kInvalid, "model.merges[0]: expected \"\xC4\xA0\", \"zzzz\" and both"},
      {"/pre_tokenizer/pretokenizers", nullptr, kInvalid, "pre_tokenizer.pretokenizers: expected an array"},
      {"/pre_tokenizer/pretokenizers/0/pattern", {{"Regex", 1}}, kInvalid, "pattern.Regex: expected a string, found 1"},
  });
}

TEST(TokenizerJson, EveryByteOfUtf8NeedsAnEntry) {
  json file = testing::golden("v2_stages.json");
  file["model"]["vocab"].erase("!");
  file["model"]["merges"] = json::array();
  const Result<Tokenizer> tokenizer = Tokenizer::parse(file.dump(), "");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_NE(tokenizer.status().message().find("found none for 0x21 (\"!\")"), std::string::npos)
      << tokenizer.status().to_string();
}

TEST(TokenizerJson, BrokenJsonIsAnErrorWithItsPlace) {
  for (const char* text : {"", "{", "[]", "null", "{\"version\": \"1.0\"", "\xFF", "{\"a\": 1e999}", "12 x"}) {
    const Result<Tokenizer> tokenizer = Tokenizer::parse(text, "");
    ASSERT_FALSE(tokenizer.ok()) << text;
    EXPECT_EQ(tokenizer.status().code(), kInvalid) << tokenizer.status().to_string();
    EXPECT_TRUE(tokenizer.status().message().starts_with("tokenizer.json: ")) << tokenizer.status().to_string();
  }
}

TEST(TokenizerJson, TemplateProcessingNamesTheBos) {
  json file = testing::golden("v2_stages.json");
  const json bos = {{"SpecialToken", {{"id", "<｜begin▁of▁sentence｜>"}, {"type_id", 0}}}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json byte_level = file["post_processor"];
  const auto with_template = [&](const json& single) {
    file["post_processor"] = {{"type", "Sequence"},
                              {"processors", {byte_level, {{"type", "TemplateProcessing"}, {"single", single}}}}};
    return Tokenizer::parse(file.dump(), "");
  };
  const Result<Tokenizer> both = with_template({bos, text});
  ASSERT_TRUE(both.ok()) << both.status().to_string();
  EXPECT_EQ(both->bos(), both->id_of("<｜begin▁of▁sentence｜>"));
  EXPECT_TRUE(both->adds_bos());
  const Result<Tokenizer> neither = with_template(json::array({text}));
  ASSERT_TRUE(neither.ok()) << neither.status().to_string();
  EXPECT_FALSE(neither->bos());
  const Result<Tokenizer> behind = with_template({text, bos});
  ASSERT_FALSE(behind.ok());
  EXPECT_EQ(behind.status().code(), kUnsupported);
  EXPECT_FALSE(with_template(json::array()).ok());
}

TEST(TokenizerConfig, ReadsBothFormsOfEverything) {
  const std::string file = testing::golden_text("v2_stages.json");
  const Tokenizer plain = testing::parsed(file, R"({"bos_token": "<｜begin▁of▁sentence｜>", "chat_template": "A"})");
  EXPECT_EQ(plain.bos(), plain.id_of("<｜begin▁of▁sentence｜>"));
  EXPECT_FALSE(plain.adds_bos());
  EXPECT_EQ(plain.chat_template(), "A");
  const Tokenizer listed = testing::parsed(file, R"({"bos_token": null, "eos_token": {"content": "<｜User｜>"},
      "chat_template": [{"name": "tools", "template": "B"}, {"name": "default", "template": "C"}]})");
  EXPECT_FALSE(listed.bos());
  EXPECT_EQ(listed.eos(), listed.id_of("<｜User｜>"));
  EXPECT_EQ(listed.chat_template(), "C");
}

TEST(TokenizerConfig, ErrorsNameTheKey) {
  const std::pair<const char*, const char*> configs[] = {
      {R"([])", "tokenizer_config.json: expected an object"},
      {R"({"add_bos_token": 1})", "tokenizer_config.json: add_bos_token: expected true or false, found 1"},
      {R"({"bos_token": 5})", "tokenizer_config.json: bos_token: expected a string, found 5"},
      {R"({"bos_token": {"x": 5}})", "tokenizer_config.json: bos_token.content: expected a string, found nothing"},
      {R"({"eos_token": "nope"})", "tokenizer_config.json: eos_token: expected the text of an added token"},
      {R"({"chat_template": []})", "tokenizer_config.json: chat_template: expected a template named \"default\""},
      {R"({"chat_template": 1})", "tokenizer_config.json: chat_template: expected a string, found 1"},
      {R"({"chat_template")", "tokenizer_config.json: not valid JSON"},
  };
  for (const auto& [config, message] : configs) {
    const Result<Tokenizer> tokenizer = Tokenizer::parse(testing::golden_text("v2_stages.json"), config);
    ASSERT_FALSE(tokenizer.ok()) << config;
    EXPECT_EQ(tokenizer.status().code(), kInvalid) << config;
    EXPECT_TRUE(tokenizer.status().message().starts_with(message)) << tokenizer.status().to_string();
  }
}

}  // namespace
}  // namespace sluice
