// A synchronous client of the native service, for `sluice client`, `sluice chat --target` and `bench serve`. Owns one
// channel; every method may be called by many threads at once. Errors come back as the server's Status.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sluice/clock.h"
#include "sluice/status.h"
#include "sluice/v1/inference.pb.h"

namespace sluice {

struct CallOptions {
  Duration timeout{};      // 0: none
  std::string request_id;  // metadata x-request-id; empty: none
};

// How to prove who one is, and whom to believe.
struct ClientSecurity {
  std::string token;      // sent with every call; empty: none
  bool tls = false;       // implied by `ca`
  std::string ca;         // PEM file with the server's authority; empty: those of this machine
  std::string cert, key;  // PEM files, where the server wants to see a certificate
};

class Client {
 public:
  // Waits until the server answers. UNAVAILABLE naming the target after `timeout`, NOT_FOUND naming a file. `target` is
  // HOST:PORT.
  static Result<Client> connect(const std::string& target, Duration timeout = std::chrono::seconds(5),
                                const ClientSecurity& security = {});
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // Sees each message as it comes; false cancels the call, which then ends with CANCELLED.
  using OnMessage = std::function<bool(const v1::Answer&)>;

  Status generate_stream(const v1::GenerateRequest& request, const OnMessage& on_message,
                         const CallOptions& options = {});
  Status chat_stream(const v1::ChatRequest& request, const OnMessage& on_message, const CallOptions& options = {});
  Result<v1::Answer> generate(const v1::GenerateRequest& request, const CallOptions& options = {});
  Result<v1::Answer> chat(const v1::ChatRequest& request, const CallOptions& options = {});

  Result<std::vector<uint32_t>> tokenize(const std::string& text);
  Result<std::string> detokenize(const std::vector<uint32_t>& token_ids);
  Result<v1::Model> model();
  Result<v1::Server> server();
  Result<int32_t> abort(const std::string& request_id);  // how many answers ended
  // Whether `service` ("" is the whole server) is SERVING.
  Result<bool> healthy(const std::string& service = "");

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
