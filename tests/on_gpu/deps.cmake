# The libraries of the checks on a GPU, from the headers and sources that ./check pack-gpu has put into .gpu-deps: such a machine
# has a compiler and the CUDA toolkit, nothing else. Headers alone, but for GoogleTest, which is compiled.
set(deps ${PROJECT_SOURCE_DIR}/.gpu-deps)

function(header_library TARGET)
  add_library(${TARGET} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${TARGET} SYSTEM INTERFACE ${deps}/include)
  target_compile_definitions(${TARGET} INTERFACE ${ARGN})
endfunction()
header_library(fmt::fmt FMT_HEADER_ONLY)
header_library(spdlog::spdlog SPDLOG_FMT_EXTERNAL SPDLOG_HEADER_ONLY FMT_HEADER_ONLY)
header_library(nlohmann_json::nlohmann_json)
header_library(PkgConfig::XXHASH XXH_INLINE_ALL)

set(INSTALL_GTEST OFF)
add_subdirectory(${deps}/googletest ${PROJECT_BINARY_DIR}/googletest EXCLUDE_FROM_ALL SYSTEM)
