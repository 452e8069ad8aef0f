#!/usr/bin/env python3
"""The rules of the house that a compiler does not check: who may include whom, file sizes, stray output and options.

Prints one line per violation and exits with 1 if there is any. DESIGN.md explains the table.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# room -> rooms of this tree that it may include, besides itself. "sluice" is include/sluice.
MAY_INCLUDE = {
    "include": {"sluice"},
    "kernels": {"sluice"},
    "src/base": {"sluice"},
    "src/config": {"sluice", "base"},
    "src/tokenizer": {"sluice", "base"},
    "src/chat": {"sluice", "base"},
    "src/cache": {"sluice", "base"},
    "src/scheduler": {"sluice", "base", "cache"},
    "src/parallel": {"sluice", "base"},
    "src/model": {"sluice", "base"},
    "src/engine": {"sluice", "base", "model"},
    "src/gpu": {"sluice", "base", "model", "engine", "kernels"},
    "src/grammar": {"sluice", "base"},
    "src/server": {"sluice", "base", "tokenizer", "chat", "proto"},
}
ROOMS = {"sluice", "kernels", "base", "config", "tokenizer", "chat", "cache", "scheduler", "parallel", "model", "engine", "gpu",
         "grammar", "server", "app",
         "tests", "benchmarks"}
TOP_LEVEL = {"CMakeLists.txt", "CMakePresets.json", "README.md", "DESIGN.md", "LICENSE", "run", "check", ".ci", ".gitignore", ".dockerignore",
             ".clang-format", "include", "src", "kernels", "proto", "configs", "tests", "benchmarks", "docker"}
MAX_LINES = 800
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def room_of(path):
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "src" else parts[0]


def included_room(name):
    first = name.split("/")[0]
    if first in ROOMS:
        return first
    return "proto" if name.endswith((".pb.h", ".grpc.pb.h")) else None


def check_file(path, text):
    room = room_of(path)
    where = path.relative_to(ROOT)
    allowed = MAY_INCLUDE.get(room)
    own = room.split("/")[-1]
    for name in INCLUDE.findall(text):
        target = included_room(name)
        if allowed is None:
            continue
        if target is None:
            yield f"{where}: includes \"{name}\", which names no room; write \"room/file.h\""
        elif target != own and target not in allowed:
            yield f"{where}: {room} may not include \"{name}\" (allowed: {', '.join(sorted(allowed | {own}))})"
    lines = text.count("\n")
    if lines > MAX_LINES:
        yield f"{where}: {lines} lines, more than {MAX_LINES}; is it still one noun?"
    if path.suffix == ".h" and "#pragma once" not in text:
        yield f"{where}: has no #pragma once"
    if room.startswith("src/") and room not in ("src/app", "src/config") and re.search(r"\b(std::)?getenv\s*\(", text):
        yield f"{where}: reads the environment; options live in src/config"
    if room.startswith(("src/", "kernels")) and room != "src/app" and re.search(r"std::c(out|err)\b", text):
        yield f"{where}: prints; log through sluice/log.h"


def main():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True,
                            text=True)
    names = listed.stdout.split() if listed.returncode == 0 else [
        str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and not {"build", ".git", ".venv", ".gpu-deps", ".deps"} & set(p.relative_to(ROOT).parts)]
    problems = [f"{name}: does not belong to the top level" for name in sorted({n.split("/")[0] for n in names} - TOP_LEVEL)]
    count = 0
    for name in names:
        path = ROOT / name
        if path.suffix in (".h", ".cc", ".cu", ".cuh") and path.is_file():
            count += 1
            problems += check_file(path, path.read_text(encoding="utf-8"))
    print("\n".join(problems) if problems else f"house: {count} files keep the rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
