#include "server/tokenizer_bundle.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "server/zip_writer.h"

namespace sluice {

namespace {

// What the libraries that read a tokenizer from a folder look for.
constexpr const char* kFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "chat_template.jinja",   "generation_config.json",  "config.json"};

}  // namespace

Result<std::string> bundle_tokenizer(const std::string& directory) {
  ZipWriter zip;
  for (const char* name : kFiles) {
    std::ifstream file(std::filesystem::path(directory) / name, std::ios::binary);
    if (!file && name == std::string("tokenizer.json")) return not_found("{}: has no tokenizer.json", directory);
    if (!file) continue;
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    zip.add(name, content);
  }
  return zip.finish();
}

}  // namespace sluice
