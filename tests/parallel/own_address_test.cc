// Where ranks listen and are reached, as far as one machine shows it; tests/clients/two_machines_test.py has two.
#include "parallel/own_address.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

GroupAddress at(const std::string& host, bool one_machine = false) {
  return {.rank = 0, .size = 2, .host = host, .own_host = {}, .one_machine = one_machine};
}

TEST(AddressToListen, IsWhatIsWrittenWhereThatIsNoNameOfAMachine) {
  for (const char* host : {"127.0.0.1", "::1", "localhost", "192.0.2.7"}) EXPECT_EQ(address_to_listen(at(host)), host);
}

class OwnAddress : public testing::Test {
 protected:
  OwnAddress() : listener_(listen_at("127.0.0.1", 0).value()), port_(port_of(listener_)), server_(listener_) {}
  std::unique_ptr<StoreClient> client() {
    return StoreClient::connect("127.0.0.1", port_, std::chrono::seconds(5)).value();
  }
  const int listener_, port_;
  StoreServer server_;
};

TEST_F(OwnAddress, IsTheLoopbackWhereAllAreOnThisMachine) {
  auto first = client(), second = client();
  ASSERT_TRUE(second->set("address/1", "127.0.0.1").ok());
  EXPECT_EQ(own_address(at("127.0.0.1"), *first).value(), "127.0.0.1");
  EXPECT_EQ(own_address(at("127.0.0.1", true), *first).value(), "127.0.0.1");
}

TEST_F(OwnAddress, IsWhatWasSaidAndTheOthersHearOfIt) {
  auto first = client(), second = client();
  GroupAddress address = at("127.0.0.1");
  address.own_host = "192.0.2.7";
  EXPECT_EQ(own_address(address, *first).value(), "192.0.2.7");
  EXPECT_EQ(second->get("address/0", std::chrono::seconds(5)).value(), "192.0.2.7");
}

TEST_F(OwnAddress, WaitsForTheOthersAsLongAsWasSaid) {
  auto first = client();
  GroupAddress address = at("127.0.0.1");
  address.start_timeout = std::chrono::milliseconds(100);
  EXPECT_EQ(own_address(address, *first).status().code(), StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace sluice
