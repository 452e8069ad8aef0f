// Stands for gloo_communicator.cc in a build without Gloo: one rank runs, more are refused.
#include "parallel/gloo_communicator.h"

namespace sluice {

Result<std::unique_ptr<Communicator>> connect_gloo(const GroupAddress& address, StoreClient&) {
  return failed_precondition("rank {} of {}: this build has no Gloo (Debian's libgloo-dev)", address.rank,
                             address.size);
}

}  // namespace sluice
