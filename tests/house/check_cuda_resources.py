#!/usr/bin/env python3
"""Reads the compiler's resource reports of the CUDA kernels: every kernel for every target, no stack, no spilled register.

check_cuda_resources.py SOURCES REPORTS   kernels/cuda and the folder of *.resources. Exits with 1 if a rule is broken.
"""
import pathlib
import re
import sys

TARGETS = ("sm_80", "sm_89", "sm_90a")
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def kernels_of(report):
    """(name, target) -> [stack, spill stores, spill loads, registers]"""
    result, current = {}, None
    for line in report.splitlines():
        if entry := ENTRY.search(line):
            current = result.setdefault((entry[1], entry[2]), [])
        elif current is not None and (found := FRAME.search(line) or USED.search(line)):
            current += map(int, found.groups())
    return result


def main():
    sources, reports = map(pathlib.Path, sys.argv[1:])
    problems, count, most = [], 0, (0, "", "")
    for unit in sorted(sources.glob("*/*.cuh")):
        report = reports / f"{unit.stem}.resources"
        kernels = kernels_of(report.read_text()) if report.exists() else {}
        names = {name for name, _ in kernels}
        if not names:
            problems.append(f"{unit.relative_to(sources)}: no kernel in {report}")
        for name in sorted(names):
            for target in TARGETS:
                values = kernels.get((name, target), [])
                if len(values) != 4:
                    problems.append(f"{name}: no complete report for {target}")
                    continue
                stack, stores, loads, registers = values
                if stack or stores or loads:
                    problems.append(f"{name} {target}: {stack} bytes of stack, {stores} + {loads} bytes spilled")
                most = max(most, (registers, name, target))
                count += 1
    print("\n".join(problems) if problems else f"cuda: {count} kernels without stack or spills, at most {most[0]} registers "
          f"({most[1]}, {most[2]})")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
