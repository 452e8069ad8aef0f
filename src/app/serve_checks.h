// What can be known of a server's options without loading the model; said before minutes are spent, and by `sluice
// doctor`. Errors name the option.
#pragma once

#include "sluice/status.h"

#include "config/options.h"
#include "server/tls.h"

namespace sluice {

TlsFiles tls_files(const Options& options);

// Files of TLS and tokens, and that nothing is exposed without them by mistake. Warns of what is allowed but risky.
Status check_security(const Options& options);
// That the addresses can be listened on now.
Status check_addresses(const Options& options);
// That the folders for weights and pages can be made and written to.
Status check_folders(const Options& options);

}  // namespace sluice
