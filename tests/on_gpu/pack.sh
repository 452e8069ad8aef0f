#!/usr/bin/env bash
# Gathers what ./check gpu needs besides compiler and toolkit into .gpu-deps, which git ignores: headers of fmt, spdlog,
# nlohmann-json and xxHash, sources of GoogleTest. Sources alone, so that the machine's compiler and C library do not matter.
# With a file name: the tracked tree and .gpu-deps as one archive for such a machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
archive=${1:-}

deps=.gpu-deps
rm -rf "$deps"
mkdir -p "$deps/include"
for name in fmt spdlog nlohmann xxhash.h; do
  [ -e "/usr/include/$name" ] || { echo "pack-gpu: /usr/include/$name is missing; docker/setup.sh installs it" >&2; exit 1; }
  cp -r "/usr/include/$name" "$deps/include/"
done
[ -d /usr/src/googletest ] || { echo "pack-gpu: /usr/src/googletest is missing; docker/setup.sh installs it" >&2; exit 1; }
cp -r /usr/src/googletest "$deps/googletest"
echo "pack-gpu: $(du -sh "$deps" | cut -f1) in $deps"

if [ -n "$archive" ]; then
  { git ls-files; find "$deps" -type f; } | tar -czf "$archive" --transform 's,^,sluice/,' -T -
  echo "pack-gpu: $archive ($(du -h "$archive" | cut -f1)); there: tar xzf, cd sluice, ./check gpu"
fi
limit=$((55 << 20))
size=$({ git ls-files; find "$deps" -type f; } | tr '\n' '\0' | du -cb --files0-from=- | tail -1 | cut -f1)
if [ "$size" -gt "$limit" ]; then
  echo "pack-gpu: tree and pack are $size bytes, more than $limit" >&2
  exit 1
fi
