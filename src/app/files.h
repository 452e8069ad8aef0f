// Small helpers of the commands for files and terminals.
#pragma once

#include <string>

#include "sluice/status.h"

namespace sluice {

// The whole file, "-" for standard input. NOT_FOUND names it.
Result<std::string> read_file(const std::string& path);

// True once Ctrl-C was pressed since the last reset. catch_interrupts() replaces the default action by this flag.
void catch_interrupts();
bool interrupted();
void reset_interrupt();

}  // namespace sluice
