// An HTTP client as plain as can be, for tests: it sends bytes and reads bytes.
#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace sluice {

using nlohmann::json;

class Connection {
 public:
  explicit Connection(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~Connection() { ::close(socket_); }

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  // Up to and with `mark`, or to the end of the connection.
  std::string read_until(std::string_view mark) {
    while (true) {
      if (const size_t at = buffer_.find(mark); !mark.empty() && at != std::string::npos) {
        const std::string result = buffer_.substr(0, at + mark.size());
        buffer_.erase(0, at + mark.size());
        return result;
      }
      char bytes[4096];
      const ssize_t got = ::recv(socket_, bytes, sizeof(bytes), 0);
      if (got <= 0) return std::exchange(buffer_, {});
      buffer_.append(bytes, static_cast<size_t>(got));
    }
  }
  std::string read_all() { return read_until(""); }

  struct Response {
    int status = 0;
    std::string head, body;
    json parsed() const { return json::parse(body); }
  };
  Response read_response(bool has_body = true) {
    Response response;
    response.head = read_until("\r\n\r\n");
    if (response.head.size() > 12) response.status = std::atoi(response.head.c_str() + 9);
    if (!has_body) return response;
    const size_t at = response.head.find("Content-Length: ");
    if (at != std::string::npos) {
      const auto size = static_cast<size_t>(std::atoi(response.head.c_str() + at + 16));
      while (buffer_.size() < size) {
        char bytes[4096];
        const ssize_t got = ::recv(socket_, bytes, sizeof(bytes), 0);
        if (got <= 0) break;
        buffer_.append(bytes, static_cast<size_t>(got));
      }
      response.body = buffer_.substr(0, size);
      buffer_.erase(0, size);
      return response;
    }
    while (true) {  // chunks
      const std::string line = read_until("\r\n");
      const size_t size = std::strtoul(line.c_str(), nullptr, 16);
      response.body += read_until("\r\n").substr(0, size);
      if (size == 0) return response;
    }
  }

 private:
  int socket_;
  std::string buffer_;
};

inline std::string post(const std::string& path, const json& body, const std::string& headers = "") {
  const std::string text = body.dump();
  return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n{}", path, text.size(), headers, text);
}

inline std::string get(const std::string& path) { return fmt::format("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path); }

}  // namespace sluice
