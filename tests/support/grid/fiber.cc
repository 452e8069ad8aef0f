#include "tests/support/grid/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace sluice::grid {

namespace {

// Where the first frame of a fiber finds out who it is, and whom it came from.
Fiber* g_from = nullptr;
Fiber* g_to = nullptr;

}  // namespace

#if !defined(SLUICE_GRID_UCONTEXT)
// void sluice_switch_stack(void** save, void* load): the registers that a call preserves, System V ABI.
extern "C" void sluice_switch_stack(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl sluice_switch_stack
.type sluice_switch_stack, @function
sluice_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sluice_switch_stack, .-sluice_switch_stack
)");
#endif

Fiber::Fiber(Entry entry) : entry_(entry) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory =
      mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
    std::perror("grid: a fiber's stack");
    std::abort();
  }
  stack_ = static_cast<char*>(memory);
  bottom_ = stack_ + page;
  size_ = kStackBytes;
#if !defined(SLUICE_GRID_UCONTEXT)
  // begin() is entered by `ret` as if it had been called: its return address lies 8 bytes below a multiple of 16.
  auto* top = reinterpret_cast<uint64_t*>(stack_ + page + kStackBytes) - 3;
  *top = 0;  // no caller
  *--top = reinterpret_cast<uint64_t>(&Fiber::begin);
  stack_pointer_ = top - 6;  // six registers, zero
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_ + page;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::begin, 0);
#endif
}

Fiber::~Fiber() {
  if (stack_) munmap(stack_, static_cast<size_t>(sysconf(_SC_PAGESIZE)) + kStackBytes);
}

void Fiber::begin() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &g_from->bottom_, &g_from->size_);
#endif
  g_to->entry_();
  std::abort();
}

void Fiber::switch_between(Fiber& from, Fiber& to) {
  if (&from == &to) return;
  g_from = &from;
  g_to = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.size_);
#endif
#if !defined(SLUICE_GRID_UCONTEXT)
  sluice_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  // The bounds of whom we came from: the thread's own stack is learnt this way.
  __sanitizer_finish_switch_fiber(from.fake_stack_, &g_from->bottom_, &g_from->size_);
#endif
}

}  // namespace sluice::grid
