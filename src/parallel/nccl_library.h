// NCCL as a table. The library is opened when the first rank on a GPU asks for it and not before: the binary starts on
// machines without it.
#pragma once

#include "sluice/status.h"

#include "parallel/nccl_api.h"

namespace sluice {

// FAILED_PRECONDITION where libnccl.so.2 is not installed or too old, and in a build that found no nccl.h.
Result<const NcclApi*> nccl_library();

}  // namespace sluice
