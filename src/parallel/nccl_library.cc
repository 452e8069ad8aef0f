// The table of nccl_api.h from libnccl.so.2: the one file of this room with NCCL's header, which says how each call is
// made. Each entry is one call.
#include "parallel/nccl_library.h"

#include <dlfcn.h>
#include <nccl.h>

#include <cstring>

namespace sluice {

namespace {

constexpr const char* kLibrary = "libnccl.so.2";

// The library's functions, under its names, with the types of the header.
#define SLUICE_NCCL_CALLS(call)                                                                             \
  call(ncclGetErrorString) call(ncclGetLastError) call(ncclGetVersion) call(ncclGetUniqueId)                \
      call(ncclCommInitRankConfig) call(ncclCommGetAsyncError) call(ncclCommFinalize) call(ncclCommDestroy) \
          call(ncclCommAbort) call(ncclAllGather) call(ncclBroadcast) call(ncclSend) call(ncclRecv)         \
              call(ncclGroupStart) call(ncclGroupEnd)

struct Library {
#define SLUICE_NCCL_MEMBER(name) decltype(&::name) name = nullptr;
  SLUICE_NCCL_CALLS(SLUICE_NCCL_MEMBER)
#undef SLUICE_NCCL_MEMBER
} g_nccl;

static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));
static_assert(ncclSuccess == kNcclSuccess && ncclInProgress == kNcclInProgress);

ncclResult_t init(ncclComm** comm, int size, const NcclId& id, int rank) {
  ncclUniqueId unique;
  std::memcpy(&unique, &id, sizeof(unique));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return g_nccl.ncclCommInitRankConfig(comm, size, unique, rank, &config);
}

constexpr NcclApi kApi{
    .error_text = [](NcclResult result) { return g_nccl.ncclGetErrorString(static_cast<ncclResult_t>(result)); },
    .last_error = [](ncclComm* comm) { return g_nccl.ncclGetLastError(comm); },
    .version = [](int* version) -> NcclResult { return g_nccl.ncclGetVersion(version); },
    .get_unique_id = [](NcclId* id) -> NcclResult {
      return g_nccl.ncclGetUniqueId(reinterpret_cast<ncclUniqueId*>(id));
    },
    .comm_init = [](ncclComm** comm, int size, const NcclId& id, int rank) -> NcclResult {
      return init(comm, size, id, rank);
    },
    .comm_async_error = [](ncclComm* comm, NcclResult* out) -> NcclResult {
      ncclResult_t state = ncclSuccess;
      const ncclResult_t result = g_nccl.ncclCommGetAsyncError(comm, &state);
      *out = state;
      return result;
    },
    .comm_finalize = [](ncclComm* comm) -> NcclResult { return g_nccl.ncclCommFinalize(comm); },
    .comm_destroy = [](ncclComm* comm) -> NcclResult { return g_nccl.ncclCommDestroy(comm); },
    .comm_abort = [](ncclComm* comm) -> NcclResult { return g_nccl.ncclCommAbort(comm); },
    .all_gather = [](const void* mine, void* all, size_t bytes, ncclComm* comm, CUstream_st* stream) -> NcclResult {
      return g_nccl.ncclAllGather(mine, all, bytes, ncclUint8, comm, stream);
    },
    .broadcast = [](const void* from, void* to, size_t bytes, int root, ncclComm* comm, CUstream_st* stream)
        -> NcclResult { return g_nccl.ncclBroadcast(from, to, bytes, ncclUint8, root, comm, stream); },
    .send = [](const void* from, size_t bytes, int to_rank, ncclComm* comm, CUstream_st* stream) -> NcclResult {
      return g_nccl.ncclSend(from, bytes, ncclUint8, to_rank, comm, stream);
    },
    .receive = [](void* to, size_t bytes, int from_rank, ncclComm* comm, CUstream_st* stream) -> NcclResult {
      return g_nccl.ncclRecv(to, bytes, ncclUint8, from_rank, comm, stream);
    },
    .group_start = []() -> NcclResult { return g_nccl.ncclGroupStart(); },
    .group_end = []() -> NcclResult { return g_nccl.ncclGroupEnd(); },
};

Status open_library() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return failed_precondition(
        "nccl: {}; ranks on GPUs need NVIDIA's package libnccl2, or LD_LIBRARY_PATH with the "
        "folder that holds {}",
        dlerror(), kLibrary);
#define SLUICE_NCCL_FIND(name)                                                   \
  g_nccl.name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name));      \
  if (!g_nccl.name)                                                              \
    return failed_precondition(                                                  \
        "nccl: {} has no {}; it is older than 2.14, which brought non-blocking " \
        "communicators",                                                         \
        kLibrary, #name);
  SLUICE_NCCL_CALLS(SLUICE_NCCL_FIND)
#undef SLUICE_NCCL_FIND
  return {};
}

}  // namespace

// Stays open to the process's end.
Result<const NcclApi*> nccl_library() {
  static const Status opened = open_library();
  SLUICE_RETURN_IF_ERROR(opened);
  return &kApi;
}

}  // namespace sluice
