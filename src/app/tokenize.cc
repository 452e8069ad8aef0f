// `sluice tokenize`: ids of texts, or texts of ids, a line in, a line out.
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/loaded_model.h"

namespace sluice {

namespace {

struct TokenizeCommand {
  OptionFlags options;
  std::string file = "-";
  bool decode = false, add_bos = false, json = true;

  Status run();
  Status run_line(const Tokenizer& tokenizer, const std::string& line, int64_t number) const;
};

Status TokenizeCommand::run_line(const Tokenizer& tokenizer, const std::string& line, int64_t number) const {
  const std::string place = fmt::format("{}:{}", file == "-" ? "standard input" : file, number);
  if (!decode) {
    Result<std::vector<TokenId>> ids = tokenizer.encode(line, add_bos);
    if (!ids.ok()) return ids.status().with_context(place);
    std::cout << nlohmann::json{{"ids", *ids}}.dump() << "\n";
    return {};
  }
  // Either {"ids": [...]} as printed above, or a bare list.
  const auto parsed = nlohmann::json::parse(line, nullptr, false);
  const auto& list = parsed.is_object() && parsed.contains("ids") ? parsed["ids"] : parsed;
  std::vector<TokenId> ids;
  if (!list.is_array()) return invalid_argument("{}: expected a list of token ids, found \"{}\"", place, line);
  for (const auto& id : list) {
    if (!id.is_number_integer()) return invalid_argument("{}: expected integers, found {}", place, id.dump());
    ids.push_back(id.get<TokenId>());
  }
  Result<std::string> text = tokenizer.decode(ids);
  if (!text.ok()) return text.status().with_context(place);
  std::cout << *text << "\n";
  return {};
}

Status TokenizeCommand::run() {
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  std::string directory = resolved.model;
  if (directory.empty()) {
    SLUICE_ASSIGN_OR_RETURN(directory, bundled_model());
  }
  SLUICE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(directory));
  std::ifstream opened;
  if (file != "-") {
    opened.open(file);
    if (!opened) return not_found("{}: cannot be read", file);
  }
  std::istream& in = file == "-" ? std::cin : opened;
  int64_t number = 0;
  for (std::string line; std::getline(in, line);) SLUICE_RETURN_IF_ERROR(run_line(tokenizer, line, ++number));
  std::cout.flush();
  return {};
}

}  // namespace

Action add_tokenize(CLI::App& app) {
  auto command = std::make_shared<TokenizeCommand>();
  command->options.add_to(app, {"model"});
  app.add_option("--file,-f", command->file, "lines to read, - for standard input [-]");
  app.add_flag("--decode", command->decode, "from ids to text");
  app.add_flag("--add-bos", command->add_bos, "put the begin-of-sequence token first");
  app.add_flag("--json", command->json, "ids are always printed as JSON; accepted for symmetry");
  return [command] { return command->run(); };
}

}  // namespace sluice
