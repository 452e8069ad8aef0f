// The tokenizer's own promises: options, errors of callers, threads, and time on ugly inputs.
#include "tokenizer/tokenizer.h"

#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/tokenizer/golden.h"

namespace sluice {
namespace {

using testing::golden_text;
using testing::ids_of;
using testing::parsed;
using Ids = std::vector<TokenId>;

constexpr const char* kBos = "<｜begin▁of▁sentence｜>";
constexpr const char* kConfig = R"({"add_bos_token": true, "bos_token": {"content": "<｜begin▁of▁sentence｜>"},
    "eos_token": "<｜end▁of▁sentence｜>", "chat_template": "T", "model_max_length": 7})";

TEST(Tokenizer, BosComesFirstIfAsked) {
  const Tokenizer tokenizer = parsed(golden_text("v2_stages.json"), kConfig);
  ASSERT_TRUE(tokenizer.bos());
  EXPECT_EQ(tokenizer.bos(), tokenizer.id_of(kBos));
  EXPECT_EQ(tokenizer.eos(), tokenizer.id_of("<｜end▁of▁sentence｜>"));
  EXPECT_TRUE(tokenizer.adds_bos());
  Ids ids = ids_of(tokenizer, "hello");
  ids.insert(ids.begin(), *tokenizer.bos());
  EXPECT_EQ(*tokenizer.encode("hello", true), ids);
  EXPECT_EQ(*tokenizer.encode("", true), Ids{*tokenizer.bos()});
  EXPECT_EQ(*tokenizer.encode("", false), Ids{});
}

TEST(Tokenizer, WithoutConfigThereIsNoBos) {
  const Tokenizer tokenizer = testing::v2_stages();
  EXPECT_FALSE(tokenizer.bos());
  EXPECT_FALSE(tokenizer.eos());
  EXPECT_FALSE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.chat_template(), "");
  EXPECT_EQ(*tokenizer.encode("", true), Ids{});
}

TEST(Tokenizer, UsersCannotForgeControlTokens) {
  const Tokenizer tokenizer = testing::v2_stages();
  const TokenId user = *tokenizer.id_of("<｜User｜>");  // as in V3: not marked special
  const TokenId bos = *tokenizer.id_of(kBos);
  for (const TokenId id : ids_of(tokenizer, std::string("<｜User｜>") + kBos, SpecialTokens::kAsText)) {
    EXPECT_NE(id, user);
    EXPECT_NE(id, bos);
  }
  EXPECT_EQ(ids_of(tokenizer, std::string("<｜User｜>") + kBos), (Ids{user, bos}));
  // A letter that is an added token stays one: the model was trained so.
  EXPECT_EQ(ids_of(tokenizer, "ü", SpecialTokens::kAsText), Ids{*tokenizer.id_of("ü")});
}

TEST(Tokenizer, PromptPiecesKeepSpecialAndOrdinaryApart) {
  const Tokenizer tokenizer = testing::v2_stages();
  const TokenId user = *tokenizer.id_of("<｜User｜>");
  Ids wanted{user};
  for (const TokenId id : ids_of(tokenizer, "hi <｜User｜>", SpecialTokens::kAsText)) wanted.push_back(id);
  wanted.push_back(user);
  EXPECT_EQ(*tokenizer.encode({{"<｜User｜>", true}, {"hi <｜User｜>", false}, {"<｜User｜>", true}}), wanted);

  const Result<Ids> missing = tokenizer.encode({{"<think>", true}});
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(missing.status().message().find("<think>"), std::string::npos);
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsPlace) {
  const Tokenizer tokenizer = testing::v2_stages();
  for (const std::string bad : {"\xFF", "\xC3", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC0\x80"}) {
    const Result<Ids> ids = tokenizer.encode("0123456789 é" + bad + "x", false);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(ids.status().message().find("offset 13"), std::string::npos) << ids.status().message();
  }
  EXPECT_FALSE(tokenizer.encode({{"\xFF", false}}).ok());
}

TEST(Tokenizer, DecodeRefusesIdsWithoutAToken) {
  const Tokenizer tokenizer = testing::v2_stages();
  for (const TokenId bad : {-1, tokenizer.vocab_size(), INT32_MAX}) {
    const Result<std::string> text = tokenizer.decode({1, bad});
    ASSERT_FALSE(text.ok());
    EXPECT_EQ(text.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(text.status().message().find("ids[1]"), std::string::npos);
    EXPECT_EQ(tokenizer.token_bytes(bad), "");
    EXPECT_FALSE(tokenizer.is_special(bad));
  }
}

TEST(Tokenizer, NamesAreFound) {
  const Tokenizer tokenizer = testing::v2_stages();
  const TokenId the = *tokenizer.id_of(" the");
  EXPECT_EQ(tokenizer.token_bytes(the), " the");
  EXPECT_EQ(tokenizer.token_bytes(*tokenizer.id_of(kBos)), kBos);
  EXPECT_TRUE(tokenizer.is_special(*tokenizer.id_of(kBos)));
  EXPECT_FALSE(tokenizer.is_special(the));
  EXPECT_FALSE(tokenizer.id_of("no such token"));
}

TEST(Tokenizer, LoadNamesTheFolder) {
  const Result<Tokenizer> missing = Tokenizer::load("/nonexistent");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("/nonexistent/tokenizer.json"), std::string::npos);
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = testing::v2_stages();
  const nlohmann::json cases = testing::golden("cases_v2.json")["cases"];
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int& count : wrong) {
    threads.emplace_back([&tokenizer, &cases, &count] {
      for (const nlohmann::json& entry : cases)
        count += *tokenizer.encode(entry["text"].get<std::string>(), false) != entry["ids"].get<Ids>();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

// 400 KB of anything take a tenth of a second in a release build; quadratic behaviour would take minutes. The bound
// leaves room for sanitizers and busy machines.
TEST(Tokenizer, NoTextIsPathological) {
  nlohmann::json gpt2 = testing::golden("v2_stages.json");
  gpt2["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const Tokenizer tokenizers[] = {testing::v2_stages(), parsed(gpt2.dump())};
  for (const char* unit : {"a", " ", "\n", "7", "中", "😀", "!", "ab ", "<", "<｜", " \n", "é", "\t x"}) {
    std::string text;
    while (text.size() < 400'000) text += unit;
    for (const Tokenizer& tokenizer : tokenizers) {
      for (const char* end : {"", "中", "\nx"}) {
        const auto start = std::chrono::steady_clock::now();
        const Result<Ids> ids = tokenizer.encode(text + end, false);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        ASSERT_TRUE(ids.ok()) << ids.status().to_string();
        EXPECT_LT(seconds.count(), 20) << nlohmann::json(unit).dump() << nlohmann::json(end).dump();
        EXPECT_EQ(*tokenizer.decode(*ids), text + end) << nlohmann::json(unit).dump();
      }
    }
  }
}

}  // namespace
}  // namespace sluice
