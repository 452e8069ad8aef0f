// NCCL played on the CPU, behind the table of nccl_api.h: ranks are threads, devices are QueuedDevices. Calls are
// recorded, operations go into the stream and really move the bytes, and a call can be told to fail or to hang. As the
// real one in non-blocking mode, a call is accepted first and in progress for a while; what must not be called then, or
// after the communicator has gone, fails the test. An operation that lacks a rank stands in the stream until its
// communicator is aborted.
#pragma once

#include <condition_variable>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/nccl_api.h"

namespace sluice {

constexpr NcclResult kFakeNcclSystemError = 2;
constexpr NcclResult kFakeNcclRemoteError = 6;

class FakeNccl {
 public:
  FakeNccl();   // the table leads here from now on; one at a time
  ~FakeNccl();  // fails the test if a communicator is left
  static const NcclApi& api();

  // Says which rank the calling thread is, for calls that name no communicator.
  static void enter(int rank);

  // From now on, this call of this rank (by NCCL's name) ...
  void fail(int rank, const std::string& call) { make(Trouble::kFails, rank, call); }
  void fail_later(int rank, const std::string& call) { make(Trouble::kFailsLater, rank, call); }  // is accepted
  void hang(int rank, const std::string& call) { make(Trouble::kHangs, rank, call); }

  std::vector<std::string> calls(int rank);
  size_t count(int rank, const std::string& call);  // of those that begin so
  std::string id_made();                            // the bytes of the only one

 private:
  enum class Trouble { kNone, kFails, kFailsLater, kHangs };
  struct Operation {
    std::string text;  // the same on all ranks
    size_t bytes = 0;
    int root = -1;  // of a broadcast; -1: all_gather
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
  };
  struct Transfer {
    int peer = 0;
    size_t bytes = 0;
    const std::byte* from = nullptr;  // to send; or
    std::byte* to = nullptr;
  };
  struct Letter {
    const std::byte* from = nullptr;
    size_t bytes = 0;
    bool taken = false;
  };
  struct Meeting {  // of the ranks in one operation
    std::vector<Operation> operations;
    int arrived = 0, done = 0;
  };
  struct Group {
    int size = 0, joined = 0, finalized = 0;
    std::map<uint64_t, Meeting> meetings;                       // by number
    std::map<std::pair<int, int>, std::list<Letter*>> letters;  // (from, to), oldest first
  };
  struct Comm {
    std::shared_ptr<Group> group;
    int rank = 0;
    int polls_in_progress = 0;  // left
    bool joins_never = false, finalized = false, ended = false, aborted = false;
    NcclResult reported = kNcclSuccess;  // later, by comm_async_error
    uint64_t next = 0;                   // meeting
  };

  friend struct FakeNcclTable;
  void make(Trouble trouble, int rank, const std::string& call);
  Trouble record(int rank, const std::string& call, const std::string& details = "");
  Comm* use(ncclComm* handle, const char* call);  // null, and a failed test, if it must not be used now
  NcclResult accept(Comm& comm, Trouble trouble);
  NcclResult run(ncclComm* handle, const char* call, Operation operation, CUstream_st* stream);
  NcclResult transfer(ncclComm* handle, const char* call, Transfer transfer, CUstream_st* stream);
  NcclResult group_end();
  NcclResult end(ncclComm* handle, const char* call);
  // In the stream's thread.
  void meet(Comm& comm, const Operation& operation);
  void carry(Comm& comm, const std::vector<Transfer>& transfers);
  void stand(Comm& comm, Trouble trouble);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<int, std::string>, Trouble> trouble_;
  std::map<int, std::vector<std::string>> calls_;
  std::vector<std::string> ids_;
  std::map<std::string, std::shared_ptr<Group>> groups_;  // by id
  std::vector<std::unique_ptr<Comm>> comms_;              // also those that have gone: whoever uses them is caught
};

}  // namespace sluice
