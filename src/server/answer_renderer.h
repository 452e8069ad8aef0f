// The one thing in which the protocols' answers differ: what is sent for what is new. Made by a service for one answer,
// used by its call, one thread at a time.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <memory>
#include <vector>

#include "server/answer_stream.h"
#include "server/validate.h"

namespace sluice {

class AnswerRenderer {
 public:
  virtual ~AnswerRenderer() = default;
  // Messages for what is new, in order; none if it is not worth one yet. A whole answer that ended well is exactly one.
  virtual std::vector<grpc::ByteBuffer> render(AnswerStream::Batch batch) = 0;
  // Told the end once, before the batch with it is rendered: how the call ends. Protocols that tell some ends in a
  // message end well there.
  virtual Status close(const GenerationEnd& end) { return end.status; }
};

// Called once the task has its client_id.
using MakeRenderer = std::function<std::unique_ptr<AnswerRenderer>(const CheckedRequest&)>;

}  // namespace sluice
