#include "server/wire.h"

#include <gtest/gtest.h>

#include "sluice/v1/inference.pb.h"

namespace sluice {
namespace {

grpc::ByteBuffer buffer_of(const std::string& bytes, size_t cut) {
  grpc::Slice slices[] = {grpc::Slice(bytes.substr(0, cut)), grpc::Slice(bytes.substr(cut))};
  return {slices, 2};
}

// Replaces a marker of valid text by invalid bytes of the same length, as no library would serialise them.
std::string spoil(const google::protobuf::Message& message, const std::string& marker) {
  std::string bytes = message.SerializeAsString();
  bytes.replace(bytes.find(marker), 2, "\xC3\x28");
  return bytes;
}

Status parse_error(const std::string& bytes, google::protobuf::Message* message) {
  return parse_message(buffer_of(bytes, bytes.size() / 2), message);
}

TEST(Wire, ParsesAcrossSlices) {
  v1::GenerateRequest request, parsed;
  request.set_text("caf\u00e9 au lait");
  const std::string bytes = request.SerializeAsString();
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    ASSERT_TRUE(parse_message(buffer_of(bytes, cut), &parsed).ok());
    EXPECT_EQ(parsed.text(), request.text());
  }
}

TEST(Wire, NamesTheFieldWithInvalidUtf8) {
  v1::GenerateRequest request;
  request.set_text("hello ##");
  request.set_cache_salt("fine");
  EXPECT_EQ(parse_error(spoil(request, "##"), &request).to_string(), "INVALID_ARGUMENT: text: is not valid UTF-8");

  v1::GenerateRequest stops;
  stops.set_text("hello");
  stops.mutable_stopping()->add_stop_strings("one");
  stops.mutable_stopping()->add_stop_strings("##");
  EXPECT_EQ(parse_error(spoil(stops, "##"), &stops).message(), "stopping.stop_strings[1]: is not valid UTF-8");

  v1::ChatRequest chat;
  for (const char* content : {"one", "two ##"}) chat.add_messages()->set_content(content);
  EXPECT_EQ(parse_error(spoil(chat, "##"), &chat).message(), "messages[1].content: is not valid UTF-8");
}

TEST(Wire, RefusesBytesThatAreNoMessage) {
  v1::GenerateRequest request;
  // Field 2 says 100 bytes follow; field 6 (a message) holds a cut varint; a group end without its start.
  for (const std::string& bytes : {std::string("\x12\x64hi"), std::string("\x32\x01\xFF"), std::string("\x0C")}) {
    const Status status = parse_error(bytes, &request);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("sluice.v1.GenerateRequest"), std::string::npos) << status.message();
  }
}

TEST(Wire, EveryTruncationIsRefusedOrParsed) {
  v1::ChatRequest request;
  v1::Message& message = *request.add_messages();
  message.set_role(v1::ROLE_USER);
  message.set_content("hello");
  (*request.mutable_sampling()->mutable_logit_bias())[3] = 1;
  request.mutable_stopping()->add_stop_strings("stop");
  const std::string bytes = request.SerializeAsString();
  int refused = 0;
  for (size_t length = 0; length < bytes.size(); ++length) {
    v1::ChatRequest parsed;
    if (!parse_error(bytes.substr(0, length), &parsed).ok()) ++refused;
  }
  EXPECT_GT(refused, 10);
}

TEST(Wire, SerialisesWhatParses) {
  v1::Answer answer, parsed;
  answer.set_request_id("r");
  answer.add_choices()->set_text("text");
  ASSERT_TRUE(parse_message(serialize_message(answer), &parsed).ok());
  EXPECT_EQ(parsed.SerializeAsString(), answer.SerializeAsString());
}

TEST(Wire, StatusesKeepTheirNumbersAndFitMetadata) {
  EXPECT_TRUE(to_grpc({}).ok());
  const grpc::Status status = to_grpc(resource_exhausted("queue full"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(from_grpc(status).to_string(), "RESOURCE_EXHAUSTED: queue full");
  std::string endless;
  while (endless.size() < 5000) endless += "\u00e9";
  const std::string cut = to_grpc(Status(StatusCode::kInternal, "x" + endless)).error_message();
  EXPECT_LT(cut.size(), 1030u);
  EXPECT_EQ(cut.substr(cut.size() - 5), "\u00e9...") << "cut between characters";
  EXPECT_EQ(from_grpc(grpc::Status(grpc::StatusCode::UNKNOWN, "?")).code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace sluice
