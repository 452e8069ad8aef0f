// The product path on CPUs. Every file of this folder is compiled once per instruction set into a namespace of its own
// (CMake sets SLUICE_ISA), from one source: simd.h hides the difference. All instruction sets give the same bits.
#pragma once

#include "sluice/ops.h"

namespace sluice::cpu {

namespace avx2 {
extern const Backend kBackend;
}
namespace avx512 {
extern const Backend kBackend;
}
namespace avx512vnni {
extern const Backend kBackend;
}
namespace avx512bf16 {
extern const Backend kBackend;
}
namespace amx {
extern const Backend kBackend;
}

}  // namespace sluice::cpu
