#include "kernels/registry.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include <fmt/format.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

namespace sluice {

namespace {

constexpr Backend kRef{
    .name = "ref",
    .supports = ref::supports,
    .packed_bytes = ref::packed_bytes,
    .pack = ref::pack,
    .embed = ref::embed,
    .rms_norm = ref::rms_norm,
    .matmul = ref::matmul,
    .grouped_matmul = ref::grouped_matmul,
    .silu_mul = ref::silu_mul,
    .route = ref::route,
    .permute = ref::permute,
    .combine = ref::combine,
    .rope = ref::rope,
    .latent_write = ref::latent_write,
    .latent_attention_expanded = ref::latent_attention_expanded,
    .latent_attention_absorbed = ref::latent_attention_absorbed,
    .index_write = ref::index_write,
    .index_select = ref::index_select,
    .sparse_attention = ref::sparse_attention,
    .scatter_rows = ref::scatter_rows,
    .hyper_weights = ref::hyper_weights,
    .hyper_collapse = ref::hyper_collapse,
    .hyper_expand = ref::hyper_expand,
    .window_write = ref::window_write,
    .compress = ref::compress,
    .window_attention = ref::window_attention,
    .block_means = ref::block_means,
    .block_select = ref::block_select,
    .key_value_write = ref::key_value_write,
    .grouped_attention_prompt = ref::grouped_attention_prompt,
    .grouped_attention_generated = ref::grouped_attention_generated,
};

[[maybe_unused]] bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

[[maybe_unused]] bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

[[maybe_unused]] bool has_avx512bf16() { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }

// CPUID 7.0 EDX; Linux lends the tile registers (8 KiB more of state per thread) to processes that ask, and to all their
// threads.
[[maybe_unused]] bool has_amx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  static const bool granted = has_avx512bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 &&
                              (d & kBf16) != 0 && (d & kTile) != 0 && (d & kInt8) != 0 &&
                              syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

// The product backends, fastest first.
struct Candidate {
  const Backend* backend;
  bool (*runs_here)();
  const char* needs;
};

constexpr Candidate kCandidates[] = {
#if defined(SLUICE_HAS_AMX)
    {&cpu::amx::kBackend, has_amx, "AMX (tiles, INT8, BF16), granted by Linux, and AVX-512 F, BW, VL, DQ, VNNI and BF16"},
#endif
#if defined(SLUICE_HAS_AVX512BF16)
    {&cpu::avx512bf16::kBackend, has_avx512bf16, "AVX-512 F, BW, VL, DQ, VNNI and BF16"},
#endif
#if defined(SLUICE_HAS_AVX512VNNI)
    {&cpu::avx512vnni::kBackend, has_avx512vnni, "AVX-512 F, BW, VL, DQ and VNNI"},
#endif
#if defined(SLUICE_HAS_AVX512)
    {&cpu::avx512::kBackend, has_avx512, "AVX-512 F, BW, VL and DQ"},
#endif
#if defined(SLUICE_HAS_AVX2)
    {&cpu::avx2::kBackend, has_avx2, "AVX2 and FMA"},
#endif
};

}  // namespace

Result<const Backend*> find_backend(std::string_view name) {
  if (name == "ref") return &kRef;
  const bool any = name == "auto" || name == "cpu";
  for (const Candidate& candidate : kCandidates) {
    if (!any && name != candidate.backend->name) continue;
    if (candidate.runs_here()) return candidate.backend;
    if (!any) return failed_precondition("device: {} needs {}, which this machine lacks", name, candidate.needs);
  }
  if (any)
    return failed_precondition(
        "device: {} needs AVX2 and FMA, which this machine lacks; --device ref runs anywhere, slowly", name);
  std::string names;
  for (const Candidate& candidate : kCandidates) names += fmt::format("{}, ", candidate.backend->name);
  return invalid_argument("device: expected one of auto, cpu, {}ref, found \"{}\"", names, name);
}

std::vector<const Backend*> runnable_backends() {
  std::vector<const Backend*> backends{&kRef};
  for (const Candidate& candidate : kCandidates)
    if (candidate.runs_here()) backends.push_back(candidate.backend);
  return backends;
}

}  // namespace sluice
