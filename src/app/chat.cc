// `sluice chat`: a conversation on a terminal, in this process or against a server. Answers stream; Ctrl-C stops the
// answer, not the program.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "app/commands.h"
#include "app/files.h"
#include "app/offline.h"

namespace sluice {

namespace {

constexpr const char* kHelp =
    "  /help            this list\n"
    "  /clear           forget the conversation\n"
    "  /system TEXT     set the system message and start anew\n"
    "  /history         show the conversation\n"
    "  /stats           tokens and speed of the last answer\n"
    "  /exit            leave (also: end of input)\n"
    "  Ctrl-C           stop the answer\n";

class ChatSession {
 public:
  ChatSession(LoadedModel& loaded, const Options& options, const RequestFlags& flags, bool thinking)
      : loaded_(loaded), flags_(flags), thinking_(thinking), runner_(loaded, options) {}

  // Answers one line of the user. Errors leave the conversation as it was.
  Status answer(const std::string& line);

  void clear() { messages_.resize(has_system() ? 1 : 0); }
  void set_system(const std::string& text) { messages_ = {{ChatRole::kSystem, text}}; }
  const std::vector<ChatMessage>& messages() const { return messages_; }
  const Usage& last_usage() const { return usage_; }

 private:
  bool has_system() const { return !messages_.empty() && messages_[0].role == ChatRole::kSystem; }

  LoadedModel& loaded_;
  const RequestFlags& flags_;
  bool thinking_;
  OfflineRunner runner_;
  std::vector<ChatMessage> messages_;
  Usage usage_;
};

Status ChatSession::answer(const std::string& line) {
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({ChatRole::kUser, line});
  SLUICE_ASSIGN_OR_RETURN(const auto pieces, render_chat(*loaded_.chat_format, messages, {.thinking = thinking_}));
  Request request;
  SLUICE_ASSIGN_OR_RETURN(request.prompt, loaded_.tokenizer->encode(pieces));
  SLUICE_RETURN_IF_ERROR(flags_.apply(loaded_.info, request));
  if (static_cast<int64_t>(request.prompt.size()) >= loaded_.info.context_length)
    return invalid_argument("the conversation has {} tokens, the context {}; /clear starts anew", request.prompt.size(),
                            loaded_.info.context_length);
  Detokenizer detokenizer(*loaded_.tokenizer);
  std::string text;
  TokenEvent last;
  const auto put = [&](std::string piece) {
    // Some formats let the answer begin with a space that belongs to the prompt's layout.
    if (text.empty()) piece.erase(0, piece.find_first_not_of(" \n"));
    text += piece;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  reset_interrupt();
  runner_.run(
      request,
      [&](const TokenEvent& event) {
        if (event.token) put(detokenizer.push(*event.token));
        if (event.finish != FinishReason::kNone) last = event;
      },
      interrupted);
  put(detokenizer.flush());
  std::printf("%s\n", last.finish == FinishReason::kCancelled ? " [stopped]"
                      : last.finish == FinishReason::kLength  ? " [length]"
                                                              : "");
  reset_interrupt();
  usage_ = last.usage;
  if (!last.error.ok() && last.finish != FinishReason::kCancelled) return last.error;
  messages.push_back({ChatRole::kAssistant, text});
  messages_ = std::move(messages);
  return {};
}

struct ChatCommand {
  OptionFlags options;
  RequestFlags request;
  std::string system;
  bool thinking = false;

  Status run();
  // False when the program should end.
  static bool command(const std::string& line, ChatSession& session);
};

void print_stats(const Usage& usage) {
  const double decode = seconds(usage.decode_time);
  std::printf("  prompt %d tokens (%d from the cache), answer %d tokens, first token after %.0f ms, %.1f tokens/s\n",
              usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens,
              seconds(usage.prefill_time) * 1e3, decode > 0 ? (usage.completion_tokens - 1) / decode : 0.0);
}

bool ChatCommand::command(const std::string& line, ChatSession& session) {
  const std::string word = line.substr(0, line.find(' '));
  if (word == "/exit" || word == "/quit") return false;
  if (word == "/clear") {
    session.clear();
    std::printf("  (forgotten)\n");
  } else if (word == "/system" && line.size() > word.size() + 1) {
    session.set_system(line.substr(word.size() + 1));
    std::printf("  (set; the conversation starts anew)\n");
  } else if (word == "/history") {
    constexpr const char* kNames[] = {"system", "user", "assistant"};
    for (const ChatMessage& message : session.messages())
      std::printf("  %s: %s\n", kNames[static_cast<size_t>(message.role)], message.content.c_str());
  } else if (word == "/stats") {
    print_stats(session.last_usage());
  } else {
    std::printf("%s%s", word == "/help" ? "" : "  unknown command; these exist:\n", kHelp);
  }
  return true;
}

Status ChatCommand::run() {
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  if (!loaded->chat_format) return loaded->chat_status;
  ChatSession session(*loaded, resolved, request, thinking);
  if (!system.empty()) session.set_system(system);
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal)
    std::printf("%s, %s. /help lists the commands.\n", loaded->info.name.c_str(), name(*loaded->chat_format));
  catch_interrupts();
  while (true) {
    if (terminal) std::printf("> ");
    std::fflush(stdout);
    std::string line;
    if (!std::getline(std::cin, line)) {
      if (!interrupted()) break;
      reset_interrupt();
      std::cin.clear();
      clearerr(stdin);
      std::printf("\n  (/exit leaves)\n");
      continue;
    }
    if (line.empty()) continue;
    if (line[0] == '/') {
      if (!command(line, session)) break;
      continue;
    }
    if (const Status status = session.answer(line); !status.ok()) std::printf("  %s\n", status.to_string().c_str());
  }
  if (terminal) std::printf("\n");
  return {};
}

}  // namespace

Action add_chat(CLI::App& app) {
  auto command = std::make_shared<ChatCommand>();
  command->options.add_to(app, offline_keys());
  command->request.add_to(app);
  app.add_option("--system", command->system, "system message");
  app.add_flag("--thinking", command->thinking, "let a model that can think do so first (DeepSeek-V3.1)");
  return [command] { return command->run(); };
}

}  // namespace sluice
