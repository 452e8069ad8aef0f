#include "tests/parallel/fake_nccl.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "tests/parallel/queued_device.h"

namespace sluice {

namespace {

constexpr int kPollsInProgress = 2;  // before a call is accepted for good

FakeNccl* g_nccl = nullptr;
thread_local int t_rank = -1;
thread_local bool t_grouping = false;

}  // namespace

struct FakeNcclTable {
  using Transfer = FakeNccl::Transfer;
  using Trouble = FakeNccl::Trouble;
  struct Grouped {
    ncclComm* comm = nullptr;
    CUstream_st* stream = nullptr;
    Trouble trouble = Trouble::kNone;
    std::vector<Transfer> transfers;
  };
  static thread_local Grouped t_group;  // of the calling thread, between ncclGroupStart and ncclGroupEnd

  static NcclResult get_unique_id(NcclId* id);
  static NcclResult comm_init(ncclComm** handle, int size, const NcclId& id, int rank);
  static NcclResult comm_async_error(ncclComm* handle, NcclResult* result);
  static NcclResult comm_finalize(ncclComm* handle);
  static NcclResult group_start();
};

thread_local FakeNcclTable::Grouped FakeNcclTable::t_group;

FakeNccl::FakeNccl() {
  EXPECT_EQ(g_nccl, nullptr);
  g_nccl = this;
}

FakeNccl::~FakeNccl() {
  g_nccl = nullptr;
  for (const auto& comm : comms_) EXPECT_TRUE(comm->ended) << "rank " << comm->rank << " left its communicator behind";
}

void FakeNccl::enter(int rank) { t_rank = rank; }

void FakeNccl::make(Trouble trouble, int rank, const std::string& call) {
  const std::lock_guard lock(mutex_);
  trouble_[{rank, call}] = trouble;
}

std::vector<std::string> FakeNccl::calls(int rank) {
  const std::lock_guard lock(mutex_);
  return calls_[rank];
}

size_t FakeNccl::count(int rank, const std::string& call) {
  size_t found = 0;
  for (const std::string& text : calls(rank)) found += text.starts_with(call);
  return found;
}

std::string FakeNccl::id_made() {
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(ids_.size(), 1u);
  return ids_.empty() ? "" : ids_[0];
}

// The functions below hold the mutex, but for those of the stream's thread, which take it.

FakeNccl::Trouble FakeNccl::record(int rank, const std::string& call, const std::string& details) {
  calls_[rank].push_back(details.empty() ? call : call + " " + details);
  const auto found = trouble_.find({rank, call});
  return found == trouble_.end() ? Trouble::kNone : found->second;
}

FakeNccl::Comm* FakeNccl::use(ncclComm* handle, const char* call) {
  for (const auto& comm : comms_) {
    if (reinterpret_cast<ncclComm*>(comm.get()) != handle) continue;
    EXPECT_FALSE(comm->ended) << call << " of rank " << comm->rank << " after the end of its communicator";
    return comm->ended ? nullptr : comm.get();
  }
  ADD_FAILURE() << call << " with what is no communicator";
  return nullptr;
}

// Accepted, now or after a while. (The real one refuses calls while another is in progress.)
NcclResult FakeNccl::accept(Comm& comm, Trouble trouble) {
  EXPECT_EQ(comm.polls_in_progress, 0) << "rank " << comm.rank << " did not wait until its last call was accepted";
  if (trouble == Trouble::kFails) return kFakeNcclSystemError;
  comm.polls_in_progress = kPollsInProgress;
  return kNcclInProgress;
}

NcclResult FakeNccl::run(ncclComm* handle, const char* call, Operation operation, CUstream_st* stream) {
  const std::lock_guard lock(mutex_);
  Comm* comm = use(handle, call);
  if (!comm) return kFakeNcclSystemError;
  EXPECT_FALSE(t_grouping) << call;
  EXPECT_TRUE(stream->reaches(operation.from, operation.bytes)) << call << " from memory that is not the device's";
  const size_t to_bytes = operation.bytes * static_cast<size_t>(operation.root < 0 ? comm->group->size : 1);
  EXPECT_TRUE(stream->reaches(operation.to, to_bytes)) << call << " into memory that is not the device's";
  operation.text = std::to_string(operation.bytes) + " bytes";
  if (operation.root >= 0) operation.text += " from " + std::to_string(operation.root);
  const Trouble trouble = record(comm->rank, call, operation.text);
  operation.text = std::string(call) + " " + operation.text;
  const NcclResult result = accept(*comm, trouble);
  if (result != kNcclInProgress) return result;
  stream->enqueue([this, comm, operation, trouble] {
    if (trouble != Trouble::kNone) {
      stand(*comm, trouble);
    } else {
      meet(*comm, operation);
    }
  });
  return result;
}

void FakeNccl::stand(Comm& comm, Trouble trouble) {
  std::unique_lock lock(mutex_);
  if (trouble == Trouble::kFailsLater) comm.reported = kFakeNcclRemoteError;
  changed_.wait(lock, [&] { return comm.aborted; });
}

void FakeNccl::meet(Comm& comm, const Operation& operation) {
  std::unique_lock lock(mutex_);
  Group& group = *comm.group;
  const uint64_t number = comm.next++;
  Meeting& meeting = group.meetings[number];
  meeting.operations.resize(static_cast<size_t>(group.size));
  meeting.operations[static_cast<size_t>(comm.rank)] = operation;
  ++meeting.arrived;
  changed_.notify_all();
  changed_.wait(lock, [&] { return meeting.arrived == group.size || comm.aborted; });
  if (comm.aborted) return;
  EXPECT_EQ(operation.text, meeting.operations[0].text) << "rank " << comm.rank << " is out of step";
  for (int rank = 0; rank < group.size; ++rank) {
    const Operation& theirs = meeting.operations[static_cast<size_t>(rank)];
    if (operation.root < 0) {
      std::memmove(operation.to + static_cast<size_t>(rank) * operation.bytes, theirs.from, operation.bytes);
    } else if (operation.root == rank) {
      std::memmove(operation.to, theirs.from, operation.bytes);
    }
  }
  ++meeting.done;
  changed_.notify_all();
  changed_.wait(lock, [&] { return meeting.done == group.size || comm.aborted; });
}

NcclResult FakeNccl::transfer(ncclComm* handle, const char* call, Transfer transfer, CUstream_st* stream) {
  const std::lock_guard lock(mutex_);
  Comm* comm = use(handle, call);
  if (!comm) return kFakeNcclSystemError;
  EXPECT_TRUE(stream->reaches(transfer.from ? transfer.from : transfer.to, transfer.bytes)) << call;
  const Trouble trouble = record(
      comm->rank, call,
      std::to_string(transfer.bytes) + " bytes " + (transfer.from ? "to " : "from ") + std::to_string(transfer.peer));
  if (trouble == Trouble::kFails) return kFakeNcclSystemError;
  if (t_grouping) {
    auto& group = FakeNcclTable::t_group;
    group.comm = handle;
    group.stream = stream;
    if (trouble != Trouble::kNone) group.trouble = trouble;
    group.transfers.push_back(transfer);
    return kNcclSuccess;
  }
  const NcclResult result = accept(*comm, trouble);
  stream->enqueue([this, comm, transfer, trouble] {
    if (trouble != Trouble::kNone) {
      stand(*comm, trouble);
    } else {
      carry(*comm, {transfer});
    }
  });
  return result;
}

NcclResult FakeNcclTable::group_start() {
  const std::lock_guard lock(g_nccl->mutex_);
  EXPECT_FALSE(t_grouping);
  if (g_nccl->record(t_rank, "ncclGroupStart") == Trouble::kFails) return kFakeNcclSystemError;
  t_grouping = true;
  t_group = Grouped();
  return kNcclSuccess;
}

NcclResult FakeNccl::group_end() {
  const std::lock_guard lock(mutex_);
  EXPECT_TRUE(t_grouping);
  t_grouping = false;
  const auto group = std::exchange(FakeNcclTable::t_group, FakeNcclTable::Grouped());
  Trouble trouble = record(t_rank, "ncclGroupEnd");
  if (trouble == Trouble::kNone) trouble = group.trouble;
  if (trouble == Trouble::kFails) return kFakeNcclSystemError;
  if (group.transfers.empty()) return kNcclSuccess;
  Comm* comm = use(group.comm, "ncclGroupEnd");
  if (!comm) return kFakeNcclSystemError;
  const NcclResult result = accept(*comm, trouble);
  group.stream->enqueue([this, comm, transfers = group.transfers, trouble] {
    if (trouble != Trouble::kNone) {
      stand(*comm, trouble);
    } else {
      carry(*comm, transfers);
    }
  });
  return result;
}

void FakeNccl::carry(Comm& comm, const std::vector<Transfer>& transfers) {
  std::unique_lock lock(mutex_);
  auto& letters = comm.group->letters;
  std::list<Letter> own;
  for (const Transfer& transfer : transfers) {
    if (!transfer.from) continue;
    own.push_back({.from = transfer.from, .bytes = transfer.bytes});
    letters[{comm.rank, transfer.peer}].push_back(&own.back());
  }
  changed_.notify_all();
  for (const Transfer& transfer : transfers) {
    if (transfer.from) continue;
    auto& box = letters[{transfer.peer, comm.rank}];
    changed_.wait(lock, [&] { return !box.empty() || comm.aborted; });
    if (comm.aborted) break;
    EXPECT_EQ(box.front()->bytes, transfer.bytes) << "from rank " << transfer.peer << " to " << comm.rank;
    std::memcpy(transfer.to, box.front()->from, std::min(transfer.bytes, box.front()->bytes));
    box.front()->taken = true;
    box.pop_front();
    changed_.notify_all();
  }
  changed_.wait(lock, [&] {
    return comm.aborted || std::all_of(own.begin(), own.end(), [](const Letter& letter) { return letter.taken; });
  });
  for (auto& [between, box] : letters)  // what an abort left
    if (between.first == comm.rank) box.clear();
}

NcclResult FakeNcclTable::get_unique_id(NcclId* id) {
  const std::lock_guard lock(g_nccl->mutex_);
  if (g_nccl->record(t_rank, "ncclGetUniqueId") == Trouble::kFails) return kFakeNcclSystemError;
  // Of all byte values, zeros too.
  for (size_t i = 0; i < sizeof(id->bytes); ++i) id->bytes[i] = static_cast<char>(i * 37 + g_nccl->ids_.size());
  g_nccl->ids_.emplace_back(id->bytes, sizeof(id->bytes));
  return kNcclSuccess;
}

NcclResult FakeNcclTable::comm_init(ncclComm** handle, int size, const NcclId& id, int rank) {
  const std::lock_guard lock(g_nccl->mutex_);
  EXPECT_EQ(rank, t_rank);
  const Trouble trouble =
      g_nccl->record(rank, "ncclCommInitRankConfig", "rank " + std::to_string(rank) + " of " + std::to_string(size));
  auto comm = std::make_unique<FakeNccl::Comm>();
  std::shared_ptr<FakeNccl::Group>& group = g_nccl->groups_[std::string(id.bytes, sizeof(id.bytes))];
  if (!group) group = std::make_shared<FakeNccl::Group>();
  group->size = size;
  comm->group = group;
  comm->rank = rank;
  if (trouble == Trouble::kFails) return kFakeNcclSystemError;
  const NcclResult result = g_nccl->accept(*comm, trouble);
  comm->joins_never = trouble == Trouble::kHangs;
  if (trouble == Trouble::kFailsLater) comm->reported = kFakeNcclRemoteError;
  group->joined += trouble != Trouble::kHangs;
  *handle = reinterpret_cast<ncclComm*>(comm.get());
  g_nccl->comms_.push_back(std::move(comm));
  return result;
}

NcclResult FakeNcclTable::comm_async_error(ncclComm* handle, NcclResult* result) {
  const std::lock_guard lock(g_nccl->mutex_);
  FakeNccl::Comm* comm = g_nccl->use(handle, "ncclCommGetAsyncError");
  if (!comm) return kFakeNcclSystemError;
  const FakeNccl::Group& group = *comm->group;
  if (comm->polls_in_progress > 0) --comm->polls_in_progress;
  const bool waits = comm->joins_never || group.joined < group.size ||
                     (comm->finalized && group.finalized < group.size) || comm->polls_in_progress > 0;
  *result = waits ? kNcclInProgress : comm->reported;
  return kNcclSuccess;
}

NcclResult FakeNcclTable::comm_finalize(ncclComm* handle) {
  const std::lock_guard lock(g_nccl->mutex_);
  FakeNccl::Comm* comm = g_nccl->use(handle, "ncclCommFinalize");
  if (!comm) return kFakeNcclSystemError;
  const Trouble trouble = g_nccl->record(comm->rank, "ncclCommFinalize");
  const NcclResult result = g_nccl->accept(*comm, trouble);
  comm->finalized = result == kNcclInProgress;
  comm->group->finalized += trouble == Trouble::kNone;
  return result;
}

NcclResult FakeNccl::end(ncclComm* handle, const char* call) {
  const std::lock_guard lock(mutex_);
  Comm* comm = use(handle, call);
  if (!comm) return kFakeNcclSystemError;
  const bool aborts = call == std::string("ncclCommAbort");
  EXPECT_TRUE(aborts || comm->finalized) << "rank " << comm->rank << " destroys what is not finalized";
  const Trouble trouble = record(comm->rank, call);
  comm->ended = true;
  comm->aborted = aborts;
  changed_.notify_all();
  return trouble == Trouble::kFails ? kFakeNcclSystemError : kNcclSuccess;
}

const NcclApi& FakeNccl::api() {
  static constexpr auto bytes_of = [](const void* memory) { return static_cast<const std::byte*>(memory); };
  static constexpr NcclApi kApi{
      .error_text = [](NcclResult result) { return result == kFakeNcclRemoteError ? "remote error" : "system error"; },
      .last_error = [](ncclComm*) { return "what NCCL says"; },
      .version = [](int* version) -> NcclResult {
        *version = 22809;
        return kNcclSuccess;
      },
      .get_unique_id = FakeNcclTable::get_unique_id,
      .comm_init = FakeNcclTable::comm_init,
      .comm_async_error = FakeNcclTable::comm_async_error,
      .comm_finalize = FakeNcclTable::comm_finalize,
      .comm_destroy = [](ncclComm* comm) { return g_nccl->end(comm, "ncclCommDestroy"); },
      .comm_abort = [](ncclComm* comm) { return g_nccl->end(comm, "ncclCommAbort"); },
      .all_gather =
          [](const void* mine, void* all, size_t bytes, ncclComm* comm, CUstream_st* stream) {
            return g_nccl->run(comm, "ncclAllGather",
                               {.text = {}, .bytes = bytes, .from = bytes_of(mine), .to = static_cast<std::byte*>(all)},
                               stream);
          },
      .broadcast =
          [](const void* from, void* to, size_t bytes, int root, ncclComm* comm, CUstream_st* stream) {
            return g_nccl->run(
                comm, "ncclBroadcast",
                {.text = {}, .bytes = bytes, .root = root, .from = bytes_of(from), .to = static_cast<std::byte*>(to)},
                stream);
          },
      .send =
          [](const void* from, size_t bytes, int to_rank, ncclComm* comm, CUstream_st* stream) {
            return g_nccl->transfer(comm, "ncclSend", {.peer = to_rank, .bytes = bytes, .from = bytes_of(from)},
                                    stream);
          },
      .receive =
          [](void* to, size_t bytes, int from_rank, ncclComm* comm, CUstream_st* stream) {
            return g_nccl->transfer(comm, "ncclRecv",
                                    {.peer = from_rank, .bytes = bytes, .to = static_cast<std::byte*>(to)}, stream);
          },
      .group_start = FakeNcclTable::group_start,
      .group_end = [] { return g_nccl->group_end(); },
  };
  return kApi;
}

}  // namespace sluice
