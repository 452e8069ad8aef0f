#include "app/bench/child_server.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

namespace sluice {

namespace {

// The child's side of the fork: only calls that are safe there.
[[noreturn]] void become_server(int output, std::vector<char*>& arguments) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  setpgid(0, 0);  // Ctrl-C is for the load generator, which ends this one in its own way
  dup2(output, STDOUT_FILENO);
  execv("/proc/self/exe", arguments.data());
  _exit(127);
}

// The first line that the server prints; empty if it ended before.
std::string read_line(int descriptor) {
  std::string line;
  for (char c = 0; read(descriptor, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}

void end_and_wait(pid_t pid) {
  kill(pid, SIGTERM);
  waitpid(pid, nullptr, 0);
}

}  // namespace

Result<std::unique_ptr<ChildServer>> ChildServer::start(const std::vector<std::string>& flags) {
  std::vector<std::string> words = {"sluice", "serve"};
  words.insert(words.end(), flags.begin(), flags.end());
  words.insert(words.end(), {"--grpc", "127.0.0.1:0", "--http", "off"});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, 0) != 0) return internal_error("no pipe for a server to be measured: {}", std::strerror(errno));
  const pid_t pid = fork();
  if (pid == 0) become_server(ends[1], arguments);
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return internal_error("no process for a server to be measured: {}", std::strerror(errno));
  }
  const std::string line = read_line(ends[0]);
  close(ends[0]);
  const size_t begin = line.find("grpc=");
  if (!line.starts_with("ready ") || begin == std::string::npos) {
    end_and_wait(pid);
    return unavailable("the server to be measured did not get ready; its log says why");
  }
  const size_t end = line.find(' ', begin);
  const std::string address = line.substr(begin + 5, end == std::string::npos ? end : end - begin - 5);
  return std::unique_ptr<ChildServer>(new ChildServer(pid, address));
}

ChildServer::~ChildServer() { end_and_wait(pid_); }

}  // namespace sluice
