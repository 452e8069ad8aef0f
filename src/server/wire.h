// Between gRPC's byte buffers and messages. We parse requests ourselves, because the library answers a malformed one
// (a string that is no UTF-8, above all) with UNIMPLEMENTED and no word about the field. Pure functions, any thread.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <optional>
#include <string>
#include <string_view>

#include "sluice/status.h"

namespace sluice {

// INVALID_ARGUMENT names the first field that is no UTF-8, or says that the bytes are no such message.
Status parse_message(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

grpc::ByteBuffer serialize_message(const google::protobuf::Message& message);

// Path of the first string field with invalid UTF-8: "messages[1].content".
std::optional<std::string> find_invalid_utf8(const google::protobuf::Descriptor& type, std::string_view bytes);

// Same number, same message, cut to what fits the trailing metadata.
grpc::Status to_grpc(const Status& status);
// Codes that we do not have become INTERNAL (our own server never sends them).
Status from_grpc(const grpc::Status& status);

}  // namespace sluice
