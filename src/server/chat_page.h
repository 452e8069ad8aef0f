// The page at `/`: chat_page.html as it lies beside this file, embedded by the build.
#pragma once

#include <string_view>

namespace sluice {

extern const std::string_view kChatPage;

}  // namespace sluice
