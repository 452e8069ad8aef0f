#!/usr/bin/env bash
# Makes calibration.txt: what the bundled model says by itself, so no text of anybody's. calibration.sh build/host/sluice
for seed in $(seq 1 24); do
  "$1" generate --prompt "" --max-tokens 400 --temperature 1 --seed "$seed" 2>/dev/null
  echo
done >"$(dirname "$0")/calibration.txt"
