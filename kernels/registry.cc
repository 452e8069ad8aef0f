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
};

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace

Result<const Backend*> find_backend(std::string_view name) {
  const bool any = name == "auto" || name == "cpu";
  if ((any || name == "cpu-avx512") && has_avx512()) return &cpu::avx512::kBackend;
  if (name == "cpu-avx512")
    return failed_precondition("device: cpu-avx512 needs AVX-512 F, BW, VL and DQ, which this machine lacks");
  if ((any || name == "cpu-avx2") && has_avx2()) return &cpu::avx2::kBackend;
  if (any || name == "cpu-avx2")
    return failed_precondition(
        "device: {} needs AVX2 and FMA, which this machine lacks; --device ref runs anywhere, slowly", name);
  if (name == "ref") return &kRef;
  return invalid_argument("device: expected one of auto, cpu, cpu-avx512, cpu-avx2, ref, found \"{}\"", name);
}

std::vector<const Backend*> runnable_backends() {
  std::vector<const Backend*> backends{&kRef};
  if (has_avx2()) backends.push_back(&cpu::avx2::kBackend);
  if (has_avx512()) backends.push_back(&cpu::avx512::kBackend);
  return backends;
}

}  // namespace sluice
