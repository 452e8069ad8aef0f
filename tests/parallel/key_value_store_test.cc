#include "parallel/key_value_store.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class KeyValueStore : public testing::Test {
 protected:
  std::unique_ptr<StoreClient> client() {
    auto connected = StoreClient::connect("127.0.0.1", port_, seconds(5));
    EXPECT_TRUE(connected.ok()) << connected.status().to_string();
    return std::move(connected).value();
  }

  // Sends raw bytes as a stranger would, and returns whether the server closed the connection.
  bool dropped_after(const std::string& bytes) {
    const int stranger = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port_));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(stranger, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    EXPECT_EQ(send(stranger, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    const timeval patience{.tv_sec = 2, .tv_usec = 0};
    setsockopt(stranger, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    char byte;
    const bool dropped = recv(stranger, &byte, 1, 0) == 0;
    close(stranger);
    return dropped;
  }

  int listener_ = listen_at("127.0.0.1", 0).value();
  int port_ = port_of(listener_);
  StoreServer server_{listener_};
};

TEST_F(KeyValueStore, KeepsWhatWasSetLast) {
  const auto a = client(), b = client();
  const std::string binary("\0\xff\n", 3), large(kMaxValueBytes, 'x');
  for (const std::string& value : {std::string(), binary, large}) {
    ASSERT_TRUE(a->set("key", value).ok());
    const auto got = b->get("key", seconds(5));
    ASSERT_TRUE(got.ok()) << got.status().to_string();
    EXPECT_EQ(*got, value);
  }
}

TEST_F(KeyValueStore, GetWaitsForSet) {
  const auto waiting = client(), setting = client();
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(50));
    EXPECT_TRUE(setting->set("late", "here").ok());
  });
  const auto got = waiting->get("late", seconds(5));
  later.join();
  ASSERT_TRUE(got.ok()) << got.status().to_string();
  EXPECT_EQ(*got, "here");
}

TEST_F(KeyValueStore, GetEndsInTimeAndNamesTheKey) {
  const auto got = client()->get("never", milliseconds(50));
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(got.status().message(), testing::HasSubstr("\"never\""));
}

TEST_F(KeyValueStore, StrangersAreDroppedAndHarmNobody) {
  const std::string huge = std::string("S") + std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8);
  EXPECT_TRUE(dropped_after("GET / HTTP/1.1\r\n\r\n"));
  EXPECT_TRUE(dropped_after(huge));
  EXPECT_TRUE(dropped_after(std::string("G") + std::string(8, '\0'))) << "an empty key";
  const auto one = client();
  ASSERT_TRUE(one->set("key", "value").ok());
  EXPECT_EQ(one->get("key", seconds(5)).value(), "value");
}

TEST(KeyValueStoreClient, NobodyListens) {
  const int listener = listen_at("127.0.0.1", 0).value();
  const int port = port_of(listener);
  close(listener);
  const auto connected = StoreClient::connect("127.0.0.1", port, milliseconds(100));
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(connected.status().message(), testing::HasSubstr(fmt::format("127.0.0.1:{}", port)));
}

TEST(KeyValueStoreClient, ServerGoesWhileOneWaits) {
  const int listener = listen_at("127.0.0.1", 0).value();
  const int port = port_of(listener);
  auto server = std::make_unique<StoreServer>(listener);
  const auto client = StoreClient::connect("127.0.0.1", port, seconds(5)).value();
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(50));
    server.reset();
  });
  const auto got = client->get("key", seconds(20));
  later.join();
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.status().code(), StatusCode::kUnavailable) << got.status().to_string();
}

}  // namespace
}  // namespace sluice
