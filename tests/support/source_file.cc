#include "tests/support/source_file.h"

namespace sluice {

std::string source_file(const std::string& name) { return SLUICE_SOURCE_DIR "/" + name; }

}  // namespace sluice
