#!/usr/bin/env python3
"""Carries out the steps of a Dockerfile in plain folders with chroot, where neither a daemon nor mounts are allowed.

    build_in_chroot.py DOCKERFILE CONTEXT BASE_FOLDER WORK_FOLDER

BASE_FOLDER is the root file system that ARG BASE stands for. Understands what our Dockerfiles use: ARG BASE, FROM ... [AS name],
RUN, COPY [--from=name], WORKDIR, ENV, and the words of the image's configuration, which it prints as one JSON object with the
folder of the last stage. It refuses everything else. As root; the folders are copies, so that nothing of the host is touched.
"""
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

CONFIGURATION = {"EXPOSE", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def instructions(text):
    """(WORD, rest) of each instruction; comments and continued lines are resolved."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


class Stage:
    def __init__(self, root):
        self.root, self.workdir, self.env, self.config = root, pathlib.PurePosixPath("/"), {}, {}

    def path(self, name):
        return self.root / str(self.workdir / name).lstrip("/")

    def run(self, command):
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in self.env.items())
        script = f"cd {shlex.quote(str(self.workdir))} && {{ {command}\n}}"
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        subprocess.run(["chroot", str(self.root), "/bin/sh", "-ec", f"export {words};{script}" if words else script], check=True,
                       env=environment, stdin=subprocess.DEVNULL)

    def copy(self, sources, target, origin):
        into_folder = target.endswith("/") or len(sources) > 1
        place = self.path(target)
        for source in sources:
            source = origin / source.lstrip("/")
            goal = place / source.name if into_folder and source.is_file() else place
            goal.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, goal, dirs_exist_ok=True, symlinks=True)
            else:
                shutil.copy2(source, goal)


def build(dockerfile, context, base, work):
    stages, stage = {}, None
    for word, rest in instructions(dockerfile.read_text()):
        print(f"chroot: {word} {rest[:100]}", file=sys.stderr, flush=True)
        if word == "ARG":
            assert rest.startswith("BASE"), f"ARG {rest}: only BASE is known here"
        elif word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert image == "${BASE}", f"FROM {image}: expected ${{BASE}}"
            root = work / (name or "image")
            subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
            stage = stages[name] = Stage(root)
        elif word == "WORKDIR":
            stage.workdir = pathlib.PurePosixPath(stage.workdir / rest)
            stage.path(".").mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            words = rest.split()
            origin = stages[words.pop(0).partition("=")[2]].root if words[0].startswith("--from=") else context
            stage.copy(words[:-1], words[-1], origin)
        elif word == "RUN":
            stage.run(rest)
        elif word == "ENV":
            stage.env.update(pair.split("=", 1) for pair in shlex.split(rest))
        elif word in CONFIGURATION:
            stage.config[word] = rest
        else:
            raise SystemExit(f"build_in_chroot: {word} is not understood")
    return stage


def main():
    dockerfile, context, base, work = map(pathlib.Path, sys.argv[1:5])
    stage = build(dockerfile, context, base, work)
    print(json.dumps({"root": str(stage.root), "env": stage.env, **stage.config}))


if __name__ == "__main__":
    main()
