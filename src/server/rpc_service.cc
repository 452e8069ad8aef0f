#include "server/rpc_service.h"

#include <grpcpp/impl/codegen/server_callback_handlers.h>

#include <utility>

#include "sluice/check.h"

namespace sluice {

namespace {

using Bytes = grpc::ByteBuffer;
using google::protobuf::MethodDescriptor;
using grpc::internal::RpcMethod;

// A streaming call that ends before it began.
template <typename Reactor>
class RefusedCall final : public Reactor {
 public:
  explicit RefusedCall(const Status& status) { this->Finish(to_grpc(status)); }
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* refuse_unary(grpc::CallbackServerContext* context, const Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(to_grpc(status));
  return reactor;
}

RpcMethod::RpcType type_of(const MethodDescriptor& method) {
  if (method.client_streaming())
    return method.server_streaming() ? RpcMethod::BIDI_STREAMING : RpcMethod::CLIENT_STREAMING;
  return method.server_streaming() ? RpcMethod::SERVER_STREAMING : RpcMethod::NORMAL_RPC;
}

}  // namespace

RpcService::RpcService(const google::protobuf::ServiceDescriptor& descriptor, Door& door)
    : door_(door), descriptor_(descriptor) {
  paths_.reserve(static_cast<size_t>(descriptor.method_count()));
  for (int i = 0; i < descriptor.method_count(); ++i) {
    const MethodDescriptor& method = *descriptor.method(i);
    paths_.push_back(fmt::format("/{}/{}", descriptor.full_name(), method.name()));
    AddMethod(new grpc::internal::RpcServiceMethod(paths_.back().c_str(), type_of(method), nullptr));
    refuse(method.name(), "this server does not have it");
  }
}

int RpcService::index_of(const std::string& method) const {
  const MethodDescriptor* found = descriptor_.FindMethodByName(method);
  SLUICE_CHECK(found, "{} has no method {}", descriptor_.full_name(), method);
  return found->index();
}

void RpcService::bind_unary(const std::string& method, UnaryHandler handler) {
  MarkMethodRawCallback(index_of(method),
                        new grpc::internal::CallbackUnaryHandler<Bytes, Bytes>(
                            [this, handler = std::move(handler)](grpc::CallbackServerContext* context,
                                                                 const Bytes* request, Bytes* response) {
                              const Result<IncomingCall> call = door_.enter(context);
                              return call.ok() ? handler(*call, *request, response)
                                               : refuse_unary(context, call.status());
                            }));
}

void RpcService::bind_stream(const std::string& method, StreamHandler handler) {
  using Reactor = grpc::ServerWriteReactor<Bytes>;
  MarkMethodRawCallback(index_of(method), new grpc::internal::CallbackServerStreamingHandler<Bytes, Bytes>(
                                              [this, handler = std::move(handler)](grpc::CallbackServerContext* context,
                                                                                   const Bytes* request) -> Reactor* {
                                                const Result<IncomingCall> call = door_.enter(context);
                                                if (call.ok()) return handler(*call, *request);
                                                return new RefusedCall<Reactor>(call.status());
                                              }));
}

void RpcService::bind_bidi(const std::string& method, BidiHandler handler) {
  using Reactor = grpc::ServerBidiReactor<Bytes, Bytes>;
  MarkMethodRawCallback(index_of(method),
                        new grpc::internal::CallbackBidiHandler<Bytes, Bytes>(
                            [this, handler = std::move(handler)](grpc::CallbackServerContext* context) -> Reactor* {
                              const Result<IncomingCall> call = door_.enter(context);
                              if (call.ok()) return handler(*call);
                              return new RefusedCall<Reactor>(call.status());
                            }));
}

void RpcService::refuse(const std::string& method, const std::string& reason) {
  const Status status(StatusCode::kUnimplemented, fmt::format("{}/{}: {}", name(), method, reason));
  switch (type_of(*descriptor_.method(index_of(method)))) {
    case RpcMethod::NORMAL_RPC:
      return bind_unary(method, [status](const IncomingCall& call, const Bytes&, Bytes*) {
        return refuse_unary(call.context, status);
      });
    case RpcMethod::SERVER_STREAMING:
      return bind_stream(method, [status](const IncomingCall&, const Bytes&) {
        return new RefusedCall<grpc::ServerWriteReactor<Bytes>>(status);
      });
    case RpcMethod::BIDI_STREAMING:
      return bind_bidi(method, [status](const IncomingCall&) {
        return new RefusedCall<grpc::ServerBidiReactor<Bytes, Bytes>>(status);
      });
    case RpcMethod::CLIENT_STREAMING:
      break;
  }
  SLUICE_CHECK(false, "{}: no protocol of ours streams requests into one answer", method);
}

}  // namespace sluice
