#include "app/rank_processes.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <optional>
#include <sstream>
#include <thread>

#include "sluice/log.h"

#include "app/files.h"
#include "engine/follower.h"
#include "parallel/key_value_store.h"

namespace sluice {

namespace {

// A group that lived so long has shown that it can: the next restart is immediate again.
constexpr Duration kLongLife = std::chrono::minutes(1);
constexpr Duration kLongestPause = std::chrono::seconds(30);

struct RankProcess {
  pid_t pid = -1;
  std::optional<int> ended;  // as waitpid() says
};

std::string end_text(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("was killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("ended with exit code {}", WEXITSTATUS(status));
}

bool is_clean(int status) { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
// Neither an error of its own, which a restart would only repeat, nor a clean end.
bool is_broken(int status) { return WIFSIGNALED(status) || WEXITSTATUS(status) == kExitGroupBroken; }
bool has_own_error(int status) { return !is_clean(status) && !is_broken(status); }

// This process's own command line, for its children.
Result<std::vector<std::string>> own_words() {
  SLUICE_ASSIGN_OR_RETURN(const std::string text, read_file("/proc/self/cmdline"));
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size(); at = text.find('\0', at) + 1) words.emplace_back(text.c_str() + at);
  return words;
}

class RankGroup {
 public:
  RankGroup(const Launch& launch, sigset_t signals, sigset_t former)
      : launch_(launch), signals_(signals), former_(former) {}

  Status start();
  // Until all have ended.
  void watch();

  bool stopping() const { return stopping_; }  // somebody asked for the end
  // Whether another start may do better: rank 0 did not end well, and no rank has an error of its own.
  bool broken() const {
    return !is_clean(*ranks_[0].ended) &&
           std::ranges::none_of(ranks_, [](const RankProcess& rank) { return has_own_error(*rank.ended); });
  }
  // OK if rank 0 ended well.
  Status status() const;

 private:
  void become_rank(int rank, int listener, std::vector<std::string>& words) const;
  void take_ends();
  void signal_all(int signal);
  bool all_ended() const {
    return std::ranges::all_of(ranks_, [](const RankProcess& rank) { return rank.ended.has_value(); });
  }

  Launch launch_;
  const sigset_t signals_, former_;
  std::vector<RankProcess> ranks_;
  bool stopping_ = false;
  int cause_ = -1;                // the first rank that ended otherwise than well
  TimePoint kill_time_ = kNever;  // when those that are left are killed
  bool killed_ = false;           // by us: no news
};

// The child's side of the fork.
void RankGroup::become_rank(int rank, int listener, std::vector<std::string>& words) const {
  Launch launch = launch_;
  launch.rank = rank;
  launch.listener = rank == 0 ? listener : -1;
  std::istringstream lines(launch_variables(launch));
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find('=');
    setenv(line.substr(0, equals).c_str(), line.c_str() + equals + 1, 1);
  }
  prctl(PR_SET_PDEATHSIG, rank == 0 ? SIGTERM : SIGKILL);
  sigprocmask(SIG_SETMASK, &former_, nullptr);
  if (rank == 0) {
    fcntl(listener, F_SETFD, 0);  // inherited
  } else {
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    dup2(STDERR_FILENO, STDOUT_FILENO);  // answers are rank 0's
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv("/proc/self/exe", arguments.data());
  _exit(127);
}

Status RankGroup::start() {
  SLUICE_ASSIGN_OR_RETURN(std::vector<std::string> words, own_words());
  SLUICE_ASSIGN_OR_RETURN(const int listener, listen_at("127.0.0.1", 0));
  launch_.port = port_of(listener);
  for (int rank = 0; rank < launch_.size; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) become_rank(rank, listener, words);
    if (pid < 0) {
      const Status status = internal_error("no process for rank {}: {}", rank, std::strerror(errno));
      signal_all(SIGKILL);
      close(listener);
      return status;
    }
    ranks_.push_back({.pid = pid, .ended = {}});
    log_info("rank {} of {} is process {}", rank, launch_.size, pid);
  }
  close(listener);
  return {};
}

void RankGroup::signal_all(int signal) {
  for (const RankProcess& rank : ranks_)
    if (!rank.ended) kill(rank.pid, signal);
}

void RankGroup::take_ends() {
  for (size_t i = 0; i < ranks_.size(); ++i) {
    RankProcess& rank = ranks_[i];
    int status = 0;
    if (rank.ended || waitpid(rank.pid, &status, WNOHANG) != rank.pid) continue;
    rank.ended = status;
    if (is_clean(status) && i != 0) continue;  // rank 0 said so, and ends itself
    if (!is_clean(status)) {
      if (!killed_) log_error("rank {} of {} {}", i, ranks_.size(), end_text(status));
      if (cause_ < 0) cause_ = static_cast<int>(i);
    }
    // Rank 0 needs a moment to answer its clients, unless it is what died.
    const bool nobody_answers = i == 0 && !is_clean(status);
    kill_time_ = std::min(kill_time_, std::chrono::steady_clock::now() + (nobody_answers ? Duration{} : kAnswerGrace));
  }
}

void RankGroup::watch() {
  while (true) {
    take_ends();
    if (all_ended()) return;
    const TimePoint now = std::chrono::steady_clock::now();
    if (now >= kill_time_) {
      signal_all(SIGKILL);
      killed_ = true;
      kill_time_ = kNever;
    }
    // SIGCHLD may have come before it was waited for; looking again every 100 ms costs nothing.
    const timespec wait{.tv_sec = 0, .tv_nsec = 100'000'000};
    siginfo_t info{};
    const int signal = sigtimedwait(&signals_, &info, &wait);
    if (signal == SIGTERM || signal == SIGINT) stopping_ = true;
    // What the terminal sends it sends to rank 0, too; twice would mean impatience.
    const bool forward = (signal == SIGTERM || signal == SIGINT || signal == SIGHUP) && info.si_code != SI_KERNEL;
    if (forward && !ranks_[0].ended) kill(ranks_[0].pid, signal);
  }
}

Status RankGroup::status() const {
  if (is_clean(*ranks_[0].ended)) return {};
  // Ends come in any order; an error of a rank's own explains those of the others.
  const auto own = std::ranges::find_if(ranks_, [](const RankProcess& rank) { return has_own_error(*rank.ended); });
  const auto cause =
      own != ranks_.end() ? static_cast<size_t>(own - ranks_.begin()) : static_cast<size_t>(std::max(cause_, 0));
  const Status why = unavailable("rank {} of {} {}", cause, ranks_.size(), end_text(*ranks_[cause].ended));
  return own == ranks_.end() ? why : failed_precondition("{}; its own line says why", why.message());
}

}  // namespace

Status run_rank_processes(const Launch& launch, bool restarts) {
  sigset_t signals, former;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, &former);
  Duration pause{};
  while (true) {
    const TimePoint begin = std::chrono::steady_clock::now();
    RankGroup group(launch, signals, former);
    SLUICE_RETURN_IF_ERROR(group.start());
    group.watch();
    if (group.stopping() || !restarts || !group.broken()) return group.status();
    if (std::chrono::steady_clock::now() - begin > kLongLife) pause = {};
    log_warn("the group of {} ranks starts again in {:.0f} s", launch.size, seconds(pause));
    const auto wait = std::chrono::duration_cast<std::chrono::seconds>(pause);
    const timespec patience{.tv_sec = wait.count(), .tv_nsec = 0};
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    if (sigtimedwait(&ends, nullptr, &patience) > 0) return group.status();
    pause = std::clamp<Duration>(2 * pause, std::chrono::seconds(1), kLongestPause);
  }
}

Status follow(LoadedModel& loaded, const Options& options, std::function<Status()> on_times) {
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  Follower follower(*loaded.model, loaded.context(), loaded.num_pages);
  follower.on_times(std::move(on_times));
  const auto duration = [](double value) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
  };
  return follower.run(duration(options.parallel_timeout), duration(options.parallel_start_timeout));
}

}  // namespace sluice
