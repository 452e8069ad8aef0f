// Where the checkout is: a function, so that only its definition differs from one folder to the next, and checkouts share
// all other objects through the compiler cache.
#pragma once

#include <string>

namespace sluice {

// The path of a file of this checkout; `name` is relative to its root.
std::string source_file(const std::string& name);

}  // namespace sluice
