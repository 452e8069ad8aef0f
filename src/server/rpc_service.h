// A gRPC service as a table of methods with raw bytes on both sides (wire.h says why). Every call of every service
// passes the Door before its method sees it, because there is no other way to bind one; a method that nobody binds
// answers UNIMPLEMENTED. Built on what generated code is built on (grpc::Service and the callback handlers of gRPC
// 1.51), which spares a tower of one template per method.
#pragma once

#include <google/protobuf/descriptor.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>

#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "server/door.h"
#include "server/wire.h"

namespace sluice {

class RpcService : public grpc::Service {
 public:
  const std::string& name() const { return descriptor_.full_name(); }  // also its name in the health protocol

 protected:
  using Bytes = grpc::ByteBuffer;
  using UnaryHandler = std::function<grpc::ServerUnaryReactor*(const IncomingCall&, const Bytes&, Bytes* response)>;
  using StreamHandler = std::function<grpc::ServerWriteReactor<Bytes>*(const IncomingCall&, const Bytes&)>;
  using BidiHandler = std::function<grpc::ServerBidiReactor<Bytes, Bytes>*(const IncomingCall&)>;

  // `descriptor` is the service's in the generated pool; `door` outlives the service.
  RpcService(const google::protobuf::ServiceDescriptor& descriptor, Door& door);

  void bind_unary(const std::string& method, UnaryHandler handler);
  void bind_stream(const std::string& method, StreamHandler handler);
  void bind_bidi(const std::string& method, BidiHandler handler);
  void refuse(const std::string& method, const std::string& reason);  // UNIMPLEMENTED, after the Door

  // A unary method that is answered at once: `answer` takes a Request, with the IncomingCall before it if it wants, and
  // returns Result<Response>.
  template <typename Request, typename Answer>
  void bind(const std::string& method, Answer answer) {
    bind_unary(method, [answer](const IncomingCall& call, const Bytes& bytes, Bytes* response) {
      grpc::ServerUnaryReactor* reactor = call.context->DefaultReactor();
      Request request;
      Status status = parse_message(bytes, &request);
      if (status.ok()) {
        const auto result = [&] {
          if constexpr (std::is_invocable_v<Answer, const IncomingCall&, const Request&>) {
            return answer(call, request);
          } else {
            return answer(request);
          }
        }();
        status = result.status();
        if (status.ok()) *response = serialize_message(*result);
      }
      reactor->Finish(to_grpc(status));
      return reactor;
    });
  }

  Door& door_;

 private:
  int index_of(const std::string& method) const;

  const google::protobuf::ServiceDescriptor& descriptor_;
  std::vector<std::string> paths_;  // "/package.Service/Method"; gRPC keeps pointers to them
};

}  // namespace sluice
