// `sluice client`: one prompt to a running server, the answer as it comes.
#include "server/client.h"

#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <iostream>

#include "app/commands.h"
#include "app/files.h"

namespace sluice {

namespace {

struct ClientCommand {
  std::string target = "127.0.0.1:50051";
  std::string prompt, prompt_file, chat, system, request_id;
  std::vector<TokenId> prompt_ids;
  RequestFlags request;
  std::string token_file;
  ClientSecurity security;
  int32_t choices = 1;
  double timeout = 0;
  bool json = false, info = false, health = false, thinking = false;

  Status run();
  Status print_info(Client& client) const;
  Status check_health(Client& client) const;
  template <typename ProtoRequest>
  void fill(ProtoRequest& out) const;
  Result<v1::GenerateRequest> generate_request() const;
  v1::ChatRequest chat_request() const;
};

template <typename Message>
void print_json(const Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  (void)google::protobuf::util::MessageToJsonString(message, &text, options);
  std::cout << text << std::endl;
}

template <typename ProtoRequest>
void ClientCommand::fill(ProtoRequest& out) const {
  request.fill(*out.mutable_sampling(), *out.mutable_stopping());
  if (choices != 1) out.set_n(choices);
  out.set_request_id(request_id);
}

Result<v1::GenerateRequest> ClientCommand::generate_request() const {
  v1::GenerateRequest out;
  fill(out);
  if (!prompt_ids.empty()) {
    for (TokenId id : prompt_ids) out.mutable_token_ids()->add_ids(static_cast<uint32_t>(id));
    return out;
  }
  std::string text = prompt;
  if (!prompt_file.empty()) {
    SLUICE_ASSIGN_OR_RETURN(text, read_file(prompt_file));
  }
  out.set_text(text);
  return out;
}

v1::ChatRequest ClientCommand::chat_request() const {
  v1::ChatRequest out;
  fill(out);
  const auto add = [&](v1::Role role, const std::string& text) {
    v1::Message* message = out.add_messages();
    message->set_role(role);
    message->set_content(text);
  };
  if (!system.empty()) add(v1::ROLE_SYSTEM, system);
  add(v1::ROLE_USER, chat);
  if (thinking) out.set_thinking(true);
  return out;
}

Status ClientCommand::print_info(Client& client) const {
  SLUICE_ASSIGN_OR_RETURN(const v1::Model model, client.model());
  SLUICE_ASSIGN_OR_RETURN(const v1::Server server, client.server());
  print_json(model);
  print_json(server);
  return {};
}

Status ClientCommand::check_health(Client& client) const {
  SLUICE_ASSIGN_OR_RETURN(const bool serving, client.healthy());
  if (!serving) return unavailable("{}: starts or drains", target);
  if (!json) std::printf("%s serves\n", target.c_str());
  return {};
}

Status ClientCommand::run() {
  if (!token_file.empty()) {
    SLUICE_ASSIGN_OR_RETURN(security.token, read_file(token_file));
    security.token.erase(security.token.find_last_not_of(" \r\n") + 1);
  }
  SLUICE_ASSIGN_OR_RETURN(Client client, Client::connect(target, std::chrono::seconds(5), security));
  if (health) return check_health(client);
  if (info) return print_info(client);
  bool first = true;
  v1::Answer last;
  const auto on_message = [&](const v1::Answer& answer) {
    if (json) {
      print_json(answer);
    } else {
      for (const v1::Choice& choice : answer.choices()) {
        std::string text = choice.text();
        // The layout of some chats leaves a space before the first word.
        if (first && !chat.empty()) text.erase(0, text.find_first_not_of(" \n"));
        if (!text.empty()) first = false;
        if (choices > 1 && !text.empty()) std::printf("[%d] ", choice.index());  // deltas of several answers interleave
        if (choice.text().empty() && choice.token_ids_size() > 0 && !prompt_ids.empty())
          for (uint32_t id : choice.token_ids()) std::printf("%u ", id);
        std::fwrite(text.data(), 1, text.size(), stdout);
        if (choices > 1 && !text.empty()) std::printf("\n");
      }
      std::fflush(stdout);
    }
    if (answer.has_usage()) last = answer;
    return !interrupted();
  };
  catch_interrupts();
  CallOptions call;
  if (timeout > 0) call.timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout));
  Status status;
  if (!chat.empty()) {
    status = client.chat_stream(chat_request(), on_message, call);
  } else {
    SLUICE_ASSIGN_OR_RETURN(const v1::GenerateRequest out, generate_request());
    status = client.generate_stream(out, on_message, call);
  }
  if (!json && choices == 1) std::printf("\n");
  std::fflush(stdout);
  if (!status.ok()) return status;
  if (!json)
    std::fprintf(stderr, "[%d prompt tokens (%d cached), first token after %.1f ms, %d tokens, %.2f ms a token]\n",
                 last.usage().prompt_tokens(), last.usage().cached_prompt_tokens(),
                 last.timings().first_token_seconds() * 1e3, last.usage().completion_tokens(),
                 last.timings().seconds_per_token() * 1e3);
  return {};
}

}  // namespace

Action add_client(CLI::App& app) {
  auto command = std::make_shared<ClientCommand>();
  app.add_option("--target,-t", command->target, "HOST:PORT of the server [127.0.0.1:50051]");
  app.add_option("--prompt,-p", command->prompt, "the text to continue");
  app.add_option("--prompt-file", command->prompt_file, "read the prompt from a file, - for standard input");
  app.add_option("--prompt-ids", command->prompt_ids, "the prompt as token ids, separated by commas")->delimiter(',');
  app.add_option("--chat,-c", command->chat, "a user's message, answered in the model's chat layout");
  app.add_option("--system", command->system, "system message of the chat");
  app.add_flag("--thinking", command->thinking, "let a model that can think do so first");
  app.add_option("--n", command->choices, "so many answers from one prompt")->check(CLI::Range(1, 16));
  app.add_option("--request-id", command->request_id, "name of the request, for logs and Abort");
  app.add_option("--timeout", command->timeout, "seconds after which the answer is no longer wanted");
  app.add_option("--token-file", command->token_file, "file with the bearer token to send, - for standard input");
  app.add_flag("--tls", command->security.tls, "speak TLS");
  app.add_option("--ca", command->security.ca, "PEM file with the server's authority; implies --tls");
  app.add_option("--cert", command->security.cert, "PEM file with the client's certificate");
  app.add_option("--key", command->security.key, "PEM file with its private key");
  app.add_flag("--json", command->json, "print the messages as JSON, one a line");
  app.add_flag("--health", command->health, "ask whether the server serves; the exit code tells");
  app.add_flag("--info", command->info, "print what the server and its model are, and its load");
  command->request.add_to(app);
  return [command] { return command->run(); };
}

}  // namespace sluice
