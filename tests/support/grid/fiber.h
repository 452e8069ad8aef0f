// A stack of its own for a function, and switching between such stacks without the kernel's help: swapcontext makes two
// system calls a switch (0.8 us where this was written), the few instructions below none (0.01 us). Other machines than
// x86-64 use swapcontext, as does this one with -DSLUICE_GRID_UCONTEXT. AddressSanitizer is told of every switch.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(SLUICE_GRID_UCONTEXT)
#define SLUICE_GRID_UCONTEXT
#endif
#if defined(SLUICE_GRID_UCONTEXT)
#include <ucontext.h>
#endif

namespace sluice::grid {

class Fiber {
 public:
  using Entry = void (*)();  // never returns

  Fiber() = default;            // the thread's own stack; to come back to
  explicit Fiber(Entry entry);  // starts at the first switch to it
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  bool owns(const void* address) const {
    const auto* byte = static_cast<const char*>(address);
    return byte >= bottom_ && byte < static_cast<const char*>(bottom_) + size_;
  }

  // Leaves `from`, the fiber that runs now, and goes on with `to`; returns when somebody switches back.
  static void switch_between(Fiber& from, Fiber& to);

 private:
  // A kernel's frames under AddressSanitizer, many times over; touched pages alone cost memory.
  static constexpr size_t kStackBytes = 256 * 1024;

  static void begin();  // the first frame of every fiber

  Entry entry_ = nullptr;
  char* stack_ = nullptr;  // a guard page, then kStackBytes
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;  // what AddressSanitizer needs to know of the stack
  size_t size_ = 0;
#if defined(SLUICE_GRID_UCONTEXT)
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace sluice::grid
