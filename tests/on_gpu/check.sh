#!/usr/bin/env bash
# What needs a GPU, on a machine that has one, a C++ compiler, CMake 3.25, Ninja and the CUDA toolkit; libraries come from the
# system or from .gpu-deps (./check pack-gpu). No network. Prints `N passed, N failed` last.
#   kernels on the GPU against the oracle, a part of them under compute-sanitizer, the engine on the demo model against the
#   CPU's, a rank per GPU over NCCL where that is installed, then benchmarks/cuda into benchmarks/results/GPU.csv.
set -uo pipefail
cd "$(dirname "$0")/../.."
begin=$SECONDS
passed=0
failed=0

finish() {
  echo "check gpu: $((SECONDS - begin)) s"
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
  exit
}
refuse() {
  echo "check gpu: $*"
  failed=$((failed + 1))
  finish
}

export PATH=$PATH:/usr/local/cuda/bin
for tool in nvcc cmake ninja c++; do
  command -v "$tool" >/dev/null || refuse "$tool is missing; it needs a C++ compiler, cmake, ninja and the CUDA toolkit"
done
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || refuse "no NVIDIA GPU here (nvidia-smi lists none); without one, ./check runs the same kernels in the emulated grid"
echo "check gpu: $gpu, $(nproc) cores"

# Its own code alone, where it is one of the targets; newer ones take the PTX that comes with all of them.
case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1) in
  8.0) target=80 ;; 8.9) target=89 ;; 9.0) target=90a ;; *) target= ;;
esac
log=build-gpu.log
if ! { cmake --preset gpu -DSLUICE_CUDA_TARGET=$target && cmake --build --preset gpu; } >"$log" 2>&1; then
  tail -60 "$log"
  refuse "the build failed; its output is in $log"
fi
rm -f "$log"
echo "check gpu: built in $((SECONDS - begin)) s"

# run_tests NAME command...: a GoogleTest binary, adding to the counts; one that dies counts as one failure more.
run_tests() {
  local name=$1 output=build/gpu/$1.log rc=0
  shift
  "$@" >"$output" 2>&1 || rc=$?
  local good bad left_out
  good=$(grep -c '^\[       OK \]' "$output")
  bad=$(grep '^\[  FAILED  \].*(.* ms)$' "$output" | grep -vc ' tests\?,')
  [ "$rc" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
  left_out=$(grep -c '^\[  SKIPPED \] .*(.* ms)$' "$output")
  # Nothing ran: allowed where NCCL is not installed, and nowhere else.
  [ "$rc" -ne 0 ] || [ "$good" -gt 0 ] || { [ "$name" = nccl ] && [ "$left_out" -gt 0 ]; } || bad=1
  [ "$rc" -eq 0 ] || tail -40 "$output"
  [ "$left_out" -eq 0 ] || grep -A1 -h 'Skipped$' "$output" | grep -v -e 'Skipped$' -e '^--$' | sort -u
  echo "check gpu: $name: $good passed, $bad failed, $left_out left out ($((SECONDS - begin)) s)"
  passed=$((passed + good))
  failed=$((failed + bad))
}

run_tests kernels build/gpu/kernels_on_gpu --gtest_filter=-*DeathTest*
run_tests engine build/gpu/engine_on_gpu
run_tests nccl timeout 300 build/gpu/nccl_on_gpu
if command -v compute-sanitizer >/dev/null; then
  # A test of each room; the tool makes a launch some hundred times slower.
  subset='CudaElementwise.Rope:CudaBf16Gemm.InputsOfAnOddNumberOfSteps:CudaGemmForms.*:CudaRoute.*:CudaPermute.*:CudaCombine.*:CudaMla*.*:CudaWindowAttention.SinksTakeTheirShare'
  for tool in memcheck racecheck; do
    run_tests "sanitizer-$tool" timeout 120 compute-sanitizer --tool "$tool" --error-exitcode 9 build/gpu/kernels_on_gpu \
      --gtest_filter="$subset:-*DeathTest*"
  done
else
  echo "check gpu: compute-sanitizer is missing: that part is left out"
fi

if [ "$failed" -eq 0 ]; then
  csv=benchmarks/results/$(echo "$gpu" | tr -cs 'A-Za-z0-9\n' '_' | tr 'A-Z' 'a-z').csv
  if timeout 240 build/gpu/cuda_bench "$csv"; then
    passed=$((passed + 1))
    echo "check gpu: rows in $csv"
  else
    failed=$((failed + 1))
    echo "check gpu: the benchmark failed"
  fi
else
  echo "check gpu: no benchmark: figures of kernels that are wrong say nothing"
fi
finish
