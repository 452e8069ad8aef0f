// Who records a kernel's stores. g++ -fsanitize=thread puts a call before every access to memory; ThreadSanitizer's own
// library is not linked, these are the functions that are called instead. Only the sources under test are built so.
#include <cstddef>

#include "tests/support/grid/grid.h"

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void*) {}
void __tsan_vptr_update(void**, void*) {}

void __tsan_read1(void*) {}
void __tsan_read2(void*) {}
void __tsan_read4(void*) {}
void __tsan_read8(void*) {}
void __tsan_read16(void*) {}
void __tsan_unaligned_read2(void*) {}
void __tsan_unaligned_read4(void*) {}
void __tsan_unaligned_read8(void*) {}
void __tsan_unaligned_read16(void*) {}
void __tsan_read_range(void*, size_t) {}

void __tsan_write1(void* address) { sluice::grid::record_store(address, 1); }
void __tsan_write2(void* address) { sluice::grid::record_store(address, 2); }
void __tsan_write4(void* address) { sluice::grid::record_store(address, 4); }
void __tsan_write8(void* address) { sluice::grid::record_store(address, 8); }
void __tsan_write16(void* address) { sluice::grid::record_store(address, 16); }
void __tsan_unaligned_write2(void* address) { sluice::grid::record_store(address, 2); }
void __tsan_unaligned_write4(void* address) { sluice::grid::record_store(address, 4); }
void __tsan_unaligned_write8(void* address) { sluice::grid::record_store(address, 8); }
void __tsan_unaligned_write16(void* address) { sluice::grid::record_store(address, 16); }
void __tsan_write_range(void* address, size_t bytes) { sluice::grid::record_store(address, bytes); }

}  // extern "C"
