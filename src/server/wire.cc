#include "server/wire.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <map>
#include <vector>

#include "sluice/check.h"

#include "tokenizer/utf8.h"

namespace sluice {

namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// Header lists of HTTP/2 are limited to 8 KiB by default, and control characters cost three bytes each there.
constexpr size_t kMaxStatusBytes = 1024;

std::string path_of(const FieldDescriptor& field, int index) {
  return field.is_repeated() && !field.is_map() ? fmt::format("{}[{}]", field.name(), index) : field.name();
}

}  // namespace

std::optional<std::string> find_invalid_utf8(const Descriptor& type, std::string_view bytes) {
  CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  std::map<int, int> seen;  // field number -> how often
  while (const uint32_t tag = in.ReadTag()) {
    const int number = WireFormatLite::GetTagFieldNumber(tag);
    const FieldDescriptor* field = type.FindFieldByNumber(number);
    if (!field || WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return std::nullopt;
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return std::nullopt;
    const auto begin = static_cast<size_t>(in.CurrentPosition());
    if (length > bytes.size() - begin) return std::nullopt;
    const std::string_view value = bytes.substr(begin, length);
    const std::string path = path_of(*field, seen[number]++);
    if (field->type() == FieldDescriptor::TYPE_STRING && valid_utf8_prefix(value) != value.size()) return path;
    if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      if (auto inner = find_invalid_utf8(*field->message_type(), value)) return path + "." + *inner;
    }
    in.Skip(static_cast<int>(length));
  }
  return std::nullopt;
}

Status parse_message(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  grpc::ByteBuffer buffer = bytes;  // shares the slices; the reader wants a buffer it may change
  {
    grpc::ProtoBufferReader reader(&buffer);
    if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return {};
  }
  std::vector<grpc::Slice> slices;
  std::string whole;
  if (bytes.Dump(&slices).ok())
    for (const grpc::Slice& slice : slices) whole.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  const Descriptor& type = *message->GetDescriptor();
  if (auto path = find_invalid_utf8(type, whole)) return invalid_argument("{}: is not valid UTF-8", *path);
  return invalid_argument("the request's {} bytes are no {}", whole.size(), type.full_name());
}

grpc::ByteBuffer serialize_message(const google::protobuf::Message& message) {
  const size_t bytes = message.ByteSizeLong();
  grpc::Slice slice(bytes);
  auto* begin = const_cast<uint8_t*>(slice.begin());  // fresh, so ours to write
  SLUICE_CHECK(message.SerializeWithCachedSizesToArray(begin) == begin + bytes, "{} is not {} bytes",
               message.GetTypeName(), bytes);
  return {&slice, 1};
}

grpc::Status to_grpc(const Status& status) {
  if (status.ok()) return {};
  std::string message = status.message();
  if (message.size() > kMaxStatusBytes) {
    message.resize(kMaxStatusBytes);
    message.resize(valid_utf8_prefix(message));
    message += "...";
  }
  return {static_cast<grpc::StatusCode>(status.code()), message};
}

Status from_grpc(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return {};
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::OUT_OF_RANGE:
      return {StatusCode::kInternal, status.error_message()};
    default:
      return {static_cast<StatusCode>(status.error_code()), status.error_message()};
  }
}

}  // namespace sluice
