// Ranks on GPUs: NCCL's collectives, one rank per device. Owns NCCL's communicator and a stage of device and pinned
// memory, both made when the ranks meet; in flight nothing is allocated. Knows NCCL only through the table of
// nccl_api.h, and CUDA only through Device. One thread calls, which has entered the device.
//
// Two ways in:
//   the seam         host memory, for what is said between steps. Goes through the stage and returns when it is done.
//   enqueue_*()      device memory, for what a forward pass says between its kernels. Goes into the device's queue and
//                    can be captured; wait() stands in Device::wait()'s place, for a rank that hangs keeps the queue
//                    from ever being done. NCCL opens connections when an operation needs them first, so a step is run
//                    once before it is captured.
//
// Same bits: ncclAllReduce adds in an order that turns with algorithm, topology, count and the place of an element. So
// NCCL moves bytes alone: a sum gathers the ranks' terms and adds them in the order of ranks, here on the host for the
// seam, on the device by a kernel of the engine (cuda::combine adds rows in a given order). That receives size - 1
// times the bytes of the terms where a ring sends 2 (size - 1) / size times: with 8 ranks four times as many, in one
// operation instead of two. A decode step of 8 rows of 7,168 bf16 gathers 0.9 MB, which is latency on NVLink; a prompt
// of thousands of rows pays the traffic.
//
// Failures: NCCL is non-blocking here, so that every wait is ours and has an end. What fails or is late aborts the
// communicator, which also ends the operations in the queue; ranks that wait for this one notice by their own timeout.
#pragma once

#include <memory>
#include <source_location>
#include <string>

#include "sluice/communicator.h"
#include "sluice/device.h"

#include "parallel/group_address.h"
#include "parallel/key_value_store.h"
#include "parallel/nccl_api.h"

namespace sluice {

// Of the stage, for each rank; longer operations take several pieces. A step's message (8 KiB) and a rank's part of a
// row of logits (129k tokens of f32 over 8 ranks: 65 KiB) go in one.
constexpr size_t kNcclPieceBytes = 256 << 10;

class NcclCommunicator final : public Communicator {
 public:
  // Waits for all ranks, the id of rank 0 coming through the store. UNAVAILABLE says which rank waited for what. Table
  // and device outlive it. NCCL finds the way to other machines by itself; NCCL_SOCKET_IFNAME names it an interface.
  static Result<std::unique_ptr<NcclCommunicator>> connect(const NcclApi& api, const GroupAddress& address,
                                                           StoreClient& store, Device& device);
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  void set_timeout(Duration timeout) override { timeout_ = timeout; }
  Status all_reduce_sum(std::span<float> values) override;
  Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override;
  Status gather(std::span<const std::byte> mine, std::span<std::byte> all) override;
  Status broadcast(std::span<std::byte> bytes) override;

  // all [size, bytes], rank by rank, on every rank; `mine` may be this rank's place in it.
  Status enqueue_all_gather(const std::byte* mine, std::byte* all, int64_t bytes);
  // Rank 0's bytes on every rank.
  Status enqueue_broadcast(std::byte* memory, int64_t bytes);
  // Returns when all work given to the device so far is done.
  Status wait();

 private:
  NcclCommunicator(const NcclApi& api, const GroupAddress& address, Device& device)
      : Communicator(address.rank, address.size), api_(api), device_(device), timeout_(address.timeout) {}

  Status meet(StoreClient& store, Duration timeout);
  void leave();
  void abort();

  struct Call {
    const char* name = "";
    std::source_location where;
  };
  // `result` of the last call, with its place and what NCCL says more.
  Status error(const char* kind, NcclResult result) const;
  std::string last_call() const;  // "ncclAllGather (nccl_communicator.cc:100)"
  // The error of a call; kNcclInProgress is none.
  Status check(NcclResult result, const char* call, std::source_location where = std::source_location::current());
  // Runs the operation; when it fails, the communicator is broken for good.
  template <typename Operation>
  Status guarded(const char* name, const Operation& operation);
  // Asks until it is so, until NCCL reports an error, or until the deadline.
  template <typename Ready>
  Status poll(const Ready& ready);
  Status settle();  // until the last call is accepted
  Status finish();  // until the device's queue is done

  std::byte* host_place(int rank, size_t piece) const { return host_stage_ + static_cast<size_t>(rank) * piece; }
  std::byte* device_place(int rank, size_t piece) const { return device_stage_ + static_cast<size_t>(rank) * piece; }
  // The stage on the host is then [size, mine.size()]; of gather_piece only rank 0's.
  Status all_gather_piece(std::span<const std::byte> mine);
  Status gather_piece(std::span<const std::byte> mine);
  Status broadcast_piece(std::span<std::byte> bytes);

  const NcclApi& api_;
  Device& device_;
  Duration timeout_;
  ncclComm* comm_ = nullptr;           // null: none yet, or aborted
  std::byte* device_stage_ = nullptr;  // [size, kNcclPieceBytes]
  std::byte* host_stage_ = nullptr;    // the same, pinned
  uint64_t number_ = 0;                // of the operation
  TimePoint deadline_;                 // of the operation
  Call last_call_;
  Status broken_;
};

}  // namespace sluice
