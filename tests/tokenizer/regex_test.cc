// The pattern dialect: classes over all of Unicode, what is refused, and searches that must not blow up.
#include "tokenizer/regex.h"

#include "tests/tokenizer/golden.h"
#include "tokenizer/regex_dialect.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

Regex compiled(const std::string& pattern) {
  const Result<std::string> translated = regex_to_pcre2(pattern, "test");
  EXPECT_TRUE(translated.ok()) << translated.status().to_string();
  Result<Regex> regex = Regex::compile(*translated, "test");
  EXPECT_TRUE(regex.ok()) << regex.status().to_string();
  return std::move(regex).value();
}

// All matches in `text`, as texts.
std::vector<std::string> matches(const std::string& pattern, std::string_view text) {
  const Regex regex = compiled(pattern);
  RegexScratch scratch;
  std::vector<std::string> result;
  RegexMatch match;
  for (size_t from = 0; from < text.size(); from = match.end) {
    const Result<bool> found = regex.find(text, from, &scratch, &match);
    EXPECT_TRUE(found.ok()) << found.status().to_string();
    if (!found.ok() || !*found) break;
    result.emplace_back(text.substr(match.begin, match.end - match.begin));
  }
  return result;
}

using Texts = std::vector<std::string>;

TEST(RegexDialect, ClassesAgreeOverAllOfUnicode) {
  const nlohmann::json recorded = testing::golden("unicode_classes.json");
  ASSERT_GE(recorded["classes"].size(), 6u);
  for (const nlohmann::json& entry : recorded["classes"]) {
    std::vector<bool> wanted(0x110000);
    for (const auto& range : entry["ranges"])
      for (uint32_t c = range[0]; c <= range[1].get<uint32_t>(); ++c) wanted[c] = true;
    const Regex regex = compiled(entry["pattern"]);
    RegexScratch scratch;
    int differences = 0;
    for (uint32_t c = 0; c < 0x110000; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      std::string text;
      append_utf8(c, &text);
      RegexMatch match;
      if (*regex.find(text, 0, &scratch, &match) != wanted[c] && ++differences <= 3)
        ADD_FAILURE() << entry["pattern"] << " and U+" << std::hex << c << ": expected " << wanted[c];
    }
    EXPECT_EQ(differences, 0) << entry["pattern"];
  }
}

TEST(RegexDialect, MatchesAsOnigurumaDoes) {
  EXPECT_EQ(matches(R"(\s+$)", "a  \n b \n\n  "), (Texts{"  ", " \n\n  "}));
  EXPECT_EQ(matches(R"(\s+$)", " \n \n x"), (Texts{" \n "}));
  EXPECT_EQ(matches(R"(a$)", "a\na b a"), (Texts{"a", "a"}));
  EXPECT_EQ(matches(R"(\s+(?!\S)|\s+)", "a   b c"), (Texts{"  ", " ", " "}));
  EXPECT_EQ(matches(R"(\p{N}{1,3})", "12345x6"), (Texts{"123", "45", "6"}));
  EXPECT_EQ(matches(R"(x{2,})", "x xx xxxxx"), (Texts{"xx", "xxxxx"}));
  EXPECT_EQ(matches(R"(x{2})", "xxxxx"), (Texts{"xx", "xx"}));
  EXPECT_EQ(matches(R"([^a-c\]\-]+)", "xa]-yz"), (Texts{"x", "yz"}));
  EXPECT_EQ(matches(R"((?i:'s|'ll)|(ab)?c)", "'S'lL'x abcc"), (Texts{"'S", "'lL", "abc", "c"}));
  EXPECT_EQ(matches("[\\u4E00-\\u9FA5\\x{1F600}]+", "a中文😀b"), (Texts{"中文😀"}));
  EXPECT_EQ(matches(R"(.+?b)", "aab\nab"), (Texts{"aab", "ab"}));
  EXPECT_EQ(matches(R"(a(?=b))", "ab ac"), (Texts{"a"}));
}

TEST(RegexDialect, LiteralsStandForThemselves) {
  const std::string text = "a.b*(c)[d]{e}\\^$|?+ 中\n#";
  const Result<Regex> regex = Regex::compile(literal_to_pcre2(text), "test");
  ASSERT_TRUE(regex.ok()) << regex.status().to_string();
  RegexScratch scratch;
  RegexMatch match;
  ASSERT_TRUE(*regex->find("<" + text + ">", 0, &scratch, &match));
  EXPECT_EQ(match.begin, 1u);
  EXPECT_EQ(match.end, 1 + text.size());
}

TEST(RegexDialect, RefusesWhatTheEnginesReadDifferently) {
  const char* patterns[] = {
      R"(\d+)",        R"(\w)",      R"(\b)",          R"(\v)",         R"(\h)",      R"(\R)",     R"(\1)",
      R"(\p{Han})",    R"(\pL)",     R"(\p{^L})",      R"(^a)",         R"([a[b]])",  R"([])",     R"([a)",
      R"([z-a])",      R"([a-\s])",  R"([\S])",        R"(a{,3})",      R"(a{3,1})",  R"(a{2}+)",  R"(a{2}?)",
      R"(a{)",         R"(a{9999})", R"(*)",           R"(|+)",         R"(a**)",     R"((a+)+)",  R"((a){2})",
      R"((?=a)*)",     R"((?<=a)b)", R"((?>a))",       R"((?m:a))",     R"((*F))",    R"((a)",     R"(a))",
      R"(\)",          R"(\x41)",    R"(\x{D800})",    R"(\x{110000})", R"(\u12)",    R"([a&&b])", R"((?i:[a]))",
      R"((?i:\p{L}))", R"((?i:.))",  R"([[:alpha:]])", R"(\Qa\E)",      R"((?<n>a))", R"(\S+[)",
  };
  for (const char* pattern : patterns) {
    const Result<std::string> translated = regex_to_pcre2(pattern, "file: stage[2]");
    ASSERT_FALSE(translated.ok()) << pattern << " became " << *translated;
    EXPECT_EQ(translated.status().code(), StatusCode::kFailedPrecondition) << pattern;
    EXPECT_NE(translated.status().message().find("file: stage[2]: "), std::string::npos) << pattern;
  }
}

TEST(Regex, RefusesPatternsThatMatchTheEmptyText) {
  for (const char* pattern : {"a*", "", "a|", "(?!b)", "$", "a?b?"}) {
    const Result<Regex> regex = Regex::compile(pattern, "stage");
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_EQ(regex.status().code(), StatusCode::kFailedPrecondition);
  }
}

// A greedy run far longer than the matcher's stack; the interpreter takes over where the compiled code gives up.
TEST(Regex, LongMatchesNeedNoLuck) {
  const std::string letters(3'000'000, 'a');
  EXPECT_EQ(matches(R"([^\r\n\p{L}]?\p{L}+)", letters), Texts{letters});
  EXPECT_EQ(matches(R"((?:a|b)?a+b)", letters + "b"), Texts{letters + "b"});
  const std::string spaces(3'000'000, ' ');
  EXPECT_EQ(matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", spaces + "x"), (Texts{spaces.substr(1), " "}));
  EXPECT_EQ(matches(R"(\s+$)", spaces + "x"), Texts{});
}

// A pattern that no checkpoint has: degree-8 backtracking. It ends with an error instead of never.
TEST(Regex, HostilePatternsStop) {
  const Regex regex = compiled("a*a*a*a*a*a*a*a*b");
  RegexScratch scratch;
  RegexMatch match;
  const Result<bool> found = regex.find(std::string(3000, 'a') + "cb", 0, &scratch, &match);
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.status().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace sluice
