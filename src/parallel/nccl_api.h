// The calls of NCCL that ranks on GPUs make, as a table: nccl_library.cc fills it from the library, a test with ranks
// that are threads. Named as NCCL's without the prefix; NCCL's types are plain ones here, so that everything above
// compiles without its header. All counts are bytes (ncclUint8): no arithmetic is asked of NCCL.
#pragma once

#include <cstddef>

struct CUstream_st;
struct ncclComm;

namespace sluice {

using NcclResult = int;  // 0: success

// What the ranks of one group meet by; rank 0 makes it.
struct NcclId {
  char bytes[128];
};

struct NcclApi {
  const char* (*error_text)(NcclResult);
  const char* (*last_error)(ncclComm*);  // what the library has to say of it; of a thread's last error without one
  NcclResult (*version)(int* version);   // 10000 * major + 100 * minor + patch

  NcclResult (*get_unique_id)(NcclId* id);
  // Non-blocking: this and every call below may return kNcclInProgress, and then comm_async_error() says when it is
  // over.
  NcclResult (*comm_init)(ncclComm** comm, int size, const NcclId& id, int rank);
  NcclResult (*comm_async_error)(ncclComm* comm, NcclResult* result);
  NcclResult (*comm_finalize)(ncclComm* comm);
  NcclResult (*comm_destroy)(ncclComm* comm);
  NcclResult (*comm_abort)(ncclComm* comm);

  // Into the stream. `all` is [size, bytes], `mine` may be this rank's place in it.
  NcclResult (*all_gather)(const void* mine, void* all, size_t bytes, ncclComm* comm, CUstream_st* stream);
  NcclResult (*broadcast)(const void* from, void* to, size_t bytes, int root, ncclComm* comm, CUstream_st* stream);
  NcclResult (*send)(const void* from, size_t bytes, int to_rank, ncclComm* comm, CUstream_st* stream);
  NcclResult (*receive)(void* to, size_t bytes, int from_rank, ncclComm* comm, CUstream_st* stream);
  // Between these two, sends and receives of one thread are one operation.
  NcclResult (*group_start)();
  NcclResult (*group_end)();
};

// The numbers are NCCL's and do not change (nccl.h).
constexpr NcclResult kNcclSuccess = 0;
constexpr NcclResult kNcclInProgress = 7;

}  // namespace sluice
