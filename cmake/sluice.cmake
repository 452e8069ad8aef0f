# The three verbs of this build: sluice_library, sluice_test, sluice_binary. Sources are found by name, so a new file
# needs no line here; a folder is one target.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)

add_library(sluice_options INTERFACE)
target_include_directories(sluice_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src
                                                    ${PROJECT_SOURCE_DIR})
target_compile_options(sluice_options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Werror
                       # One rounding per written operation, the same bits from every translation unit: the compiler
                       # must not fuse a*b+c on its own. Kernels say fma where they mean it.
                       -ffp-contract=off)
target_link_libraries(sluice_options INTERFACE Threads::Threads fmt::fmt spdlog::spdlog)
if(SLUICE_SANITIZE STREQUAL "address")
  target_compile_options(sluice_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all
                                                  -fno-omit-frame-pointer -g1)
  target_link_options(sluice_options INTERFACE -fsanitize=address,undefined)
elseif(SLUICE_SANITIZE STREQUAL "thread")
  target_compile_options(sluice_options INTERFACE -fsanitize=thread -g1)
  target_link_options(sluice_options INTERFACE -fsanitize=thread)
elseif(SLUICE_SANITIZE)
  message(FATAL_ERROR "SLUICE_SANITIZE: expected address or thread, found '${SLUICE_SANITIZE}'")
endif()

# sluice_library(NAME [DEPS target...]): the .cc files of the current folder as sluice_NAME.
function(sluice_library NAME)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *.cc)
  if(NOT sources)
    return()
  endif()
  add_library(sluice_${NAME} STATIC ${sources})
  target_link_libraries(sluice_${NAME} PUBLIC sluice_options ${ARG_DEPS})
endfunction()

# sluice_test(NAME [DEPS target...]): all *_test.cc of the current folder as one ctest entry NAME_test.
function(sluice_test NAME)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *_test.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(${NAME}_test ${sources})
  target_link_libraries(${NAME}_test PRIVATE ${ARG_DEPS} sluice_test_support GTest::gmock GTest::gtest_main)
  add_test(NAME ${NAME} COMMAND ${NAME}_test)
  set_tests_properties(${NAME} PROPERTIES TIMEOUT 300)
endfunction()
