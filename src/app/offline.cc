#include "app/offline.h"

namespace sluice {

void OfflineRunner::run(Request request, const std::function<void(const TokenEvent&)>& on_event,
                        const std::function<bool()>& stop) {
  on_event_ = on_event;
  request.id = RequestId{next_id_++};
  request.arrival = std::chrono::steady_clock::now();
  const RequestId id = request.id;
  core_.scheduler().submit(std::move(request), std::chrono::steady_clock::now());
  while (!core_.scheduler().idle()) {
    if (stop()) core_.scheduler().cancel(id);
    core_.step();
  }
}

}  // namespace sluice
