#include "parallel/nccl_communicator.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "sluice/check.h"
#include "sluice/log.h"

namespace sluice {

namespace {

constexpr const char* kIdKey = "nccl/id";

// Small operations end within tens of microseconds once all ranks are there, and rank 0 plans a step in about 50: until
// then the wait spins. Whoever waits longer waits for a rank that has nothing to say yet, and leaves the core to
// others.
constexpr Duration kSpin = std::chrono::microseconds(100);
constexpr Duration kNap = std::chrono::microseconds(50);

int64_t signed_size(size_t bytes) { return static_cast<int64_t>(bytes); }

// body(begin, bytes) for each piece of [0, total), which is no longer than the stage.
template <typename Body>
Status for_pieces(size_t total, const Body& body) {
  for (size_t begin = 0; begin < total; begin += kNcclPieceBytes)
    SLUICE_RETURN_IF_ERROR(body(begin, std::min(kNcclPieceBytes, total - begin)));
  return {};
}

}  // namespace

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::connect(const NcclApi& api, const GroupAddress& address,
                                                                    StoreClient& store, Device& device) {
  std::unique_ptr<NcclCommunicator> ranks(new NcclCommunicator(api, address, device));
  const Status met = ranks->meet(store, address.start_timeout);
  if (met.ok()) return ranks;
  ranks->abort();
  const Status status =
      met.with_context(fmt::format("rank {} of {}: the ranks did not meet", address.rank, address.size));
  // Late is what others see as gone; only a device without memory is this rank's own affair.
  return met.code() == StatusCode::kResourceExhausted ? status : Status(StatusCode::kUnavailable, status.message());
}

Status NcclCommunicator::meet(StoreClient& store, Duration timeout) {
  deadline_ = std::chrono::steady_clock::now() + timeout;
  int version = 0;
  SLUICE_RETURN_IF_ERROR(check(api_.version(&version), "ncclGetVersion"));
  const int64_t stage_bytes = size() * signed_size(kNcclPieceBytes);
  SLUICE_ASSIGN_OR_RETURN(device_stage_, device_.allocate(stage_bytes));
  SLUICE_ASSIGN_OR_RETURN(host_stage_, device_.allocate_host(stage_bytes));

  NcclId id{};
  if (rank() == 0) {
    SLUICE_RETURN_IF_ERROR(check(api_.get_unique_id(&id), "ncclGetUniqueId"));
    SLUICE_RETURN_IF_ERROR(store.set(kIdKey, {id.bytes, sizeof(id.bytes)}));
  } else {
    SLUICE_ASSIGN_OR_RETURN(const std::string bytes, store.get(kIdKey, timeout));
    if (bytes.size() != sizeof(id.bytes))
      return unavailable("key \"{}\": expected {} bytes, found {}", kIdKey, sizeof(id.bytes), bytes.size());
    std::memcpy(id.bytes, bytes.data(), sizeof(id.bytes));
  }
  SLUICE_RETURN_IF_ERROR(check(api_.comm_init(&comm_, size(), id, rank()), "ncclCommInitRankConfig"));
  SLUICE_RETURN_IF_ERROR(settle());
  log_info("rank {} of {}: NCCL {}.{}.{} on {}", rank(), size(), version / 10000, version / 100 % 100, version % 100,
           device_.properties().name);
  return {};
}

NcclCommunicator::~NcclCommunicator() {
  if (comm_) leave();
  if (device_stage_) device_.release(device_stage_);
  if (host_stage_) device_.release_host(host_stage_);
}

// The orderly end waits for what is in the queue. A rank that has gone without it is no reason to stay.
void NcclCommunicator::leave() {
  deadline_ = std::chrono::steady_clock::now() + timeout_;
  Status left = check(api_.comm_finalize(comm_), "ncclCommFinalize");
  if (left.ok()) left = settle();
  if (left.ok()) left = check(api_.comm_destroy(std::exchange(comm_, nullptr)), "ncclCommDestroy");
  if (!left.ok()) log_warn("rank {} of {}: {}", rank(), size(), left.message());
  abort();
}

void NcclCommunicator::abort() {
  if (!comm_) return;
  const Status aborted = check(api_.comm_abort(std::exchange(comm_, nullptr)), "ncclCommAbort");
  if (!aborted.ok()) log_error("rank {} of {}: {}", rank(), size(), aborted.message());
}

std::string NcclCommunicator::last_call() const {
  const std::string file = last_call_.where.file_name();
  return fmt::format("{} ({}:{})", last_call_.name, file.substr(file.rfind('/') + 1), last_call_.where.line());
}

Status NcclCommunicator::error(const char* kind, NcclResult result) const {
  const char* more = api_.last_error(comm_);
  const std::string said = more && *more ? fmt::format("; {}", more) : "";
  return unavailable("nccl: {}: {}{}{}", last_call(), kind, api_.error_text(result), said);
}

Status NcclCommunicator::check(NcclResult result, const char* call, std::source_location where) {
  last_call_ = {call, where};
  return result == kNcclSuccess || result == kNcclInProgress ? Status() : error("", result);
}

template <typename Operation>
Status NcclCommunicator::guarded(const char* name, const Operation& operation) {
  if (!broken_.ok()) return broken_;
  ++number_;
  deadline_ = std::chrono::steady_clock::now() + timeout_;
  const Status status = operation();
  if (status.ok()) return status;
  abort();
  broken_ = unavailable("rank {} of {}: {} number {}: {}", rank(), size(), name, number_, status.message());
  return broken_;
}

template <typename Ready>
Status NcclCommunicator::poll(const Ready& ready) {
  const TimePoint begin = std::chrono::steady_clock::now();
  while (true) {
    NcclResult state = kNcclSuccess;
    // Not by check(): the call to name is the one that is waited for.
    const NcclResult asked = api_.comm_async_error(comm_, &state);
    if (asked == kNcclInProgress) state = kNcclInProgress;
    if (asked != kNcclSuccess && asked != kNcclInProgress) return check(asked, "ncclCommGetAsyncError");
    if (state != kNcclSuccess && state != kNcclInProgress) return error("failed later: ", state);
    SLUICE_ASSIGN_OR_RETURN(const bool is_ready, ready(state));
    if (is_ready) return {};
    const TimePoint now = std::chrono::steady_clock::now();
    if (now >= deadline_)
      return unavailable("nccl: {}: not done in time; a rank died, hangs, or fell out of step", last_call());
    if (now - begin > kSpin) std::this_thread::sleep_for(kNap);
  }
}

Status NcclCommunicator::settle() {
  return poll([](NcclResult state) -> Result<bool> { return state == kNcclSuccess; });
}

Status NcclCommunicator::finish() {
  return poll([this](NcclResult) { return device_.done(); });
}

Status NcclCommunicator::all_reduce_sum(std::span<float> values) {
  return guarded("all_reduce_sum", [&] {
    return for_pieces(values.size_bytes(), [&](size_t begin, size_t bytes) -> Status {
      const std::span<float> piece = values.subspan(begin / sizeof(float), bytes / sizeof(float));
      SLUICE_RETURN_IF_ERROR(all_gather_piece(std::as_bytes(piece)));
      std::memcpy(piece.data(), host_place(0, bytes), bytes);
      for (int term = 1; term < size(); ++term) {
        const auto* terms = reinterpret_cast<const float*>(host_place(term, bytes));
        for (size_t i = 0; i < piece.size(); ++i) piece[i] += terms[i];
      }
      return {};
    });
  });
}

Status NcclCommunicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  SLUICE_CHECK(all.size() == mine.size() * static_cast<size_t>(size()), "{} bytes of {} ranks gathered into {}",
               mine.size(), size(), all.size());
  return guarded("all_gather", [&] {
    return for_pieces(mine.size(), [&](size_t begin, size_t bytes) -> Status {
      SLUICE_RETURN_IF_ERROR(all_gather_piece(mine.subspan(begin, bytes)));
      for (int of = 0; of < size(); ++of)
        std::memcpy(all.data() + static_cast<size_t>(of) * mine.size() + begin, host_place(of, bytes), bytes);
      return {};
    });
  });
}

Status NcclCommunicator::gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  SLUICE_CHECK(rank() != 0 || all.size() == mine.size() * static_cast<size_t>(size()),
               "{} bytes of {} ranks gathered into {}", mine.size(), size(), all.size());
  return guarded("gather", [&] {
    return for_pieces(mine.size(), [&](size_t begin, size_t bytes) -> Status {
      SLUICE_RETURN_IF_ERROR(gather_piece(mine.subspan(begin, bytes)));
      for (int of = 0; rank() == 0 && of < size(); ++of)
        std::memcpy(all.data() + static_cast<size_t>(of) * mine.size() + begin, host_place(of, bytes), bytes);
      return {};
    });
  });
}

Status NcclCommunicator::broadcast(std::span<std::byte> bytes) {
  return guarded("broadcast", [&] {
    return for_pieces(bytes.size(),
                      [&](size_t begin, size_t count) { return broadcast_piece(bytes.subspan(begin, count)); });
  });
}

Status NcclCommunicator::all_gather_piece(std::span<const std::byte> mine) {
  const size_t bytes = mine.size();
  std::byte* const own = device_place(rank(), bytes);
  std::memcpy(host_place(rank(), bytes), mine.data(), bytes);
  SLUICE_RETURN_IF_ERROR(device_.copy_in(own, host_place(rank(), bytes), signed_size(bytes)));
  SLUICE_RETURN_IF_ERROR(check(api_.all_gather(own, device_stage_, bytes, comm_, device_.stream()), "ncclAllGather"));
  SLUICE_RETURN_IF_ERROR(settle());
  SLUICE_RETURN_IF_ERROR(device_.copy_out(host_stage_, device_stage_, size() * signed_size(bytes)));
  return finish();
}

// NCCL gathers on one rank only since 2.28; sends and receives as one operation are the same.
Status NcclCommunicator::gather_piece(std::span<const std::byte> mine) {
  const size_t bytes = mine.size();
  if (rank() > 0) {
    std::memcpy(host_stage_, mine.data(), bytes);
    SLUICE_RETURN_IF_ERROR(device_.copy_in(device_stage_, host_stage_, signed_size(bytes)));
    SLUICE_RETURN_IF_ERROR(check(api_.send(device_stage_, bytes, 0, comm_, device_.stream()), "ncclSend"));
    SLUICE_RETURN_IF_ERROR(settle());
    return finish();
  }
  if (size() > 1) {
    SLUICE_RETURN_IF_ERROR(check(api_.group_start(), "ncclGroupStart"));
    Status received;
    for (int from = 1; received.ok() && from < size(); ++from)
      received = check(api_.receive(device_place(from, bytes), bytes, from, comm_, device_.stream()), "ncclRecv");
    // Also behind a failure: a group that stays open would swallow this thread's next calls.
    const Status ended = check(api_.group_end(), "ncclGroupEnd");
    SLUICE_RETURN_IF_ERROR(received);
    SLUICE_RETURN_IF_ERROR(ended);
    SLUICE_RETURN_IF_ERROR(settle());
    SLUICE_RETURN_IF_ERROR(
        device_.copy_out(host_place(1, bytes), device_place(1, bytes), (size() - 1) * signed_size(bytes)));
    SLUICE_RETURN_IF_ERROR(finish());
  }
  std::memcpy(host_stage_, mine.data(), bytes);
  return {};
}

Status NcclCommunicator::broadcast_piece(std::span<std::byte> bytes) {
  const int64_t count = signed_size(bytes.size());
  if (rank() == 0) {
    std::memcpy(host_stage_, bytes.data(), bytes.size());
    SLUICE_RETURN_IF_ERROR(device_.copy_in(device_stage_, host_stage_, count));
  }
  SLUICE_RETURN_IF_ERROR(
      check(api_.broadcast(device_stage_, device_stage_, bytes.size(), 0, comm_, device_.stream()), "ncclBroadcast"));
  SLUICE_RETURN_IF_ERROR(settle());
  if (rank() > 0) SLUICE_RETURN_IF_ERROR(device_.copy_out(host_stage_, device_stage_, count));
  SLUICE_RETURN_IF_ERROR(finish());
  if (rank() > 0) std::memcpy(bytes.data(), host_stage_, bytes.size());
  return {};
}

Status NcclCommunicator::enqueue_all_gather(const std::byte* mine, std::byte* all, int64_t bytes) {
  return guarded("enqueue_all_gather", [&]() -> Status {
    SLUICE_RETURN_IF_ERROR(
        check(api_.all_gather(mine, all, static_cast<size_t>(bytes), comm_, device_.stream()), "ncclAllGather"));
    return settle();
  });
}

Status NcclCommunicator::enqueue_broadcast(std::byte* memory, int64_t bytes) {
  return guarded("enqueue_broadcast", [&]() -> Status {
    SLUICE_RETURN_IF_ERROR(
        check(api_.broadcast(memory, memory, static_cast<size_t>(bytes), 0, comm_, device_.stream()), "ncclBroadcast"));
    return settle();
  });
}

Status NcclCommunicator::wait() {
  return guarded("wait", [&] { return finish(); });
}

}  // namespace sluice
