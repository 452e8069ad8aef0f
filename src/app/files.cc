#include "app/files.h"

#include <csignal>
#include <fstream>
#include <iostream>
#include <iterator>

namespace sluice {

namespace {

volatile std::sig_atomic_t g_interrupted = 0;  // written by the signal handler

}  // namespace

Result<std::string> read_file(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::ifstream file(path, std::ios::binary);
  if (!file) return not_found("{}: cannot be read", path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { g_interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);  // without SA_RESTART: a read at the prompt returns
}

bool interrupted() { return g_interrupted != 0; }
void reset_interrupt() { g_interrupted = 0; }

}  // namespace sluice
