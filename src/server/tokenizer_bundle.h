// The checkpoint's tokenizer files as one zip archive, for gateways that tokenise by themselves. Reads files; any
// thread.
#pragma once

#include <string>

#include "sluice/status.h"

namespace sluice {

// Of `directory`. NOT_FOUND if it has no tokenizer.json.
Result<std::string> bundle_tokenizer(const std::string& directory);

}  // namespace sluice
