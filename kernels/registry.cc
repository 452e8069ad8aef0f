#include "kernels/registry.h"

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

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

bool has_avx512bf16() { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }

// The product backends, fastest first.
struct Candidate {
  const Backend* backend;
  bool (*runs_here)();
  const char* needs;
};

constexpr Candidate kCandidates[] = {
    {&cpu::avx512bf16::kBackend, has_avx512bf16, "AVX-512 F, BW, VL, DQ, VNNI and BF16"},
    {&cpu::avx512vnni::kBackend, has_avx512vnni, "AVX-512 F, BW, VL, DQ and VNNI"},
    {&cpu::avx512::kBackend, has_avx512, "AVX-512 F, BW, VL and DQ"},
    {&cpu::avx2::kBackend, has_avx2, "AVX2 and FMA"},
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
  return invalid_argument("device: expected one of auto, cpu, cpu-avx512bf16, cpu-avx512vnni, cpu-avx512, cpu-avx2, ref, found \"{}\"",
                          name);
}

std::vector<const Backend*> runnable_backends() {
  std::vector<const Backend*> backends{&kRef};
  for (const Candidate& candidate : kCandidates)
    if (candidate.runs_here()) backends.push_back(candidate.backend);
  return backends;
}

}  // namespace sluice
