#!/usr/bin/env python3
"""Builds the CPU image for real and starts it: as a user without rights, on a read-only root file system.

    image_test.py WORK_FOLDER

Needs root, debootstrap and buildah, no daemon. BASE is debootstrapped into the work folder (and kept there). The image is built by
`buildah build --isolation chroot`; where the machine refuses the mounts that this needs, the same steps run in a chroot
(docker/build_in_chroot.py), and a line says so. Prints size and start time, and `N passed, N failed` last.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile.cpu"
MIRROR = os.environ.get("DEBIAN_MIRROR")  # none: debootstrap's own choice
USER = "65532"
GRPC, HTTP = "127.0.0.1:50961", "127.0.0.1:50962"
SECONDS = 120


def run(*words, **options):
    return subprocess.run([str(word) for word in words], check=True, text=True, **options)


def output(*words):
    return run(*words, capture_output=True).stdout


def make_base(work):
    """As Debian's own small images: minbase, without documentation and package lists."""
    base = work / "base"
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        print("image: debootstrap", flush=True)
        with open(work / "debootstrap.log", "w") as log:
            run("debootstrap", "--variant=minbase", "bookworm", base, *([MIRROR] if MIRROR else []), stdout=log, stderr=log)
        for folder in ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt", "var/log"):
            for entry in (base / folder).iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (base / "complete").touch()
    return base


class Buildah:
    def __init__(self, work):
        policy = work / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.words = ["buildah", "--storage-driver", "vfs", "--root", work / "storage", "--runroot", work / "runroot"]
        self.policy = ["--signature-policy", policy]

    def __call__(self, *words):
        return output(*self.words, *words).strip()

    def build(self, base, log):
        container = self("from", *self.policy, "scratch")
        self("add", "--quiet", container, base, "/")
        self("commit", *self.policy, "--quiet", "--rm", container, "sluice-base")
        run(*self.words, "build", *self.policy, "--isolation", "chroot", "--format", "docker", "--pull-never", "--build-arg",
            "BASE=localhost/sluice-base", "--file", DOCKERFILE, "--tag", "sluice:cpu", ROOT, stdout=log, stderr=log)
        config = json.loads(self("inspect", "--type", "image", "sluice:cpu"))["Docker"]["config"]
        container = self("from", *self.policy, "--pull-never", "sluice:cpu")
        root = pathlib.Path(self("mount", container))
        return root, {"user": config["User"], "entrypoint": config["Entrypoint"], "cmd": config["Cmd"], "ports": sorted(config["ExposedPorts"]),
                      "health": config["Healthcheck"]["Test"], "env": dict(pair.split("=", 1) for pair in config["Env"])}


def build_in_chroot(work, base, log):
    stages = work / "stages"
    shutil.rmtree(stages, ignore_errors=True)
    stages.mkdir()
    made = json.loads(run(sys.executable, ROOT / "docker" / "build_in_chroot.py", DOCKERFILE, ROOT, base, stages, stdout=subprocess.PIPE,
                          stderr=log).stdout.splitlines()[-1])
    return pathlib.Path(made["root"]), {
        "user": made["USER"], "entrypoint": json.loads(made["ENTRYPOINT"]), "cmd": json.loads(made["CMD"]),
        "ports": [f"{port}/tcp" for port in made["EXPOSE"].split()],
        "health": ["CMD", *json.loads(made["HEALTHCHECK"].partition("CMD ")[2])], "env": made["env"]}


def build(work):
    base = make_base(work)
    # A container of this machine may not reach PyPI as we do; this checkout has been built, so the archive is here.
    for archive in (ROOT / ".deps").glob("*.tar.gz"):
        shutil.copy(archive, ROOT / "docker" / "deps")
    begin = time.monotonic()
    with open(work / "build.log", "w") as log:
        try:
            root, config = Buildah(work).build(base, log)
            how = "buildah, isolation chroot, storage vfs"
        except (OSError, subprocess.CalledProcessError) as error:
            log.flush()
            words = (work / "build.log").read_text().splitlines()[-5:]
            refused = "mount" in " ".join(words) or "permitted" in " ".join(words) or isinstance(error, OSError)
            assert refused, "\n".join([str(error), getattr(error, "stderr", "") or "", *words])
            print(f"image: buildah is refused here ({error}); the same steps run in a chroot", flush=True)
            root, config = build_in_chroot(work, base, log)
            how = "chroot"
    print(f"image: built in {time.monotonic() - begin:.0f} s ({how})", flush=True)
    return root, config


def size_of(root):
    return int(output("du", "-sxb", root).split()[0])


class Container:
    """The image's command in a mount namespace whose root is the image, mounted read-only, and where nothing else is mounted but
    /proc. Without the right to mount, a plain chroot: then the user's lack of rights is what keeps the root unwritten."""

    def __init__(self, root, config, *flags):
        self.root, self.env = root, {**config["env"], "SLUICE_GRPC": GRPC, "SLUICE_HTTP": HTTP, "SLUICE_INSECURE": "true"}
        self.env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        self.inside = ["chroot", f"--userspec={USER}:{USER}", str(root)]
        script = ('mount --make-rprivate / && mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount -o remount,ro,bind "$0" '
                  '&& exec "$@"')
        probe = subprocess.run(["unshare", "-m", "sh", "-c", script, str(root), "true"], capture_output=True, text=True)
        self.read_only = probe.returncode == 0
        if not self.read_only:
            print(f"image: mounts are refused here ({probe.stderr.strip()}); started in a plain chroot", flush=True)
        wrap = ["unshare", "-m", "sh", "-c", script, str(root)] if self.read_only else []
        self.wrap = [*wrap, *self.inside]
        self.process = subprocess.Popen([*self.wrap, *config["entrypoint"], *config["cmd"], *flags], env=self.env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *words):
        return subprocess.run([*self.wrap, *words], env=self.env, capture_output=True, text=True, timeout=SECONDS)


def main():
    work = pathlib.Path(sys.argv[1]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    root, config = build(work)
    results = []

    def check(what, good, found=""):
        print(f"{'passed' if good else 'FAILED'}  {what} {found if not good else ''}".rstrip(), flush=True)
        results.append(bool(good))
        return good

    check("the image names a user without rights", config["user"].split(":")[0] == USER, config["user"])
    check("the image exposes the two doors", config["ports"] == ["50051/tcp", "8080/tcp"], config["ports"])
    check("no compiler and no headers are left in it", not any((root / "usr" / name).exists() for name in ("bin/gcc", "bin/cmake", "include/grpcpp")))
    binary, whole = (root / "usr/local/bin/sluice").stat().st_size, size_of(root)
    print(f"image: {whole / 1e6:.0f} MB, of these {size_of(work / 'base') / 1e6:.0f} MB base and {binary / 1e6:.1f} MB binary", flush=True)

    begin = time.monotonic()
    container = Container(root, config)
    ready = container.process.stdout.readline()
    print(f"image: ready {time.monotonic() - begin:.2f} s after the start", flush=True)
    if check("it starts", ready.startswith("ready "), container.process.stderr.read() if not ready else ready):
        health = container.run(*config["health"][1:], "--target", GRPC)
        check("its own health check passes", health.returncode == 0, health.stderr)
        answer = container.run("sluice", "client", "--target", GRPC, "--prompt", "Once upon a time", "--max-tokens", "8")
        check("it answers from the bundled model", answer.returncode == 0 and answer.stdout.strip(), answer.stderr)
        touched = container.run("sh", "-c", "touch /usr/local/share/sluice/x /var/x /x")
        check("its user cannot write into it", touched.returncode != 0 and not (root / "x").exists())
        owner = pathlib.Path(f"/proc/{container.process.pid}/status").read_text()
        check("the process has no rights", f"Uid:\t{USER}" in owner, owner)
        container.process.terminate()
        check("SIGTERM ends it", container.process.wait(SECONDS) == 0)
        health = container.run(*config["health"][1:], "--target", GRPC)
        check("the health check of a server that is gone fails", health.returncode == 1, health)
        lines = container.process.stderr.read().splitlines()
        check("its log is JSON", lines and all(json.loads(line)["message"] for line in lines), lines[:3])
    env = {key: value for key, value in container.env.items() if key != "SLUICE_INSECURE"} | {"SLUICE_GRPC": "0.0.0.0:0"}
    refused = subprocess.run([*container.wrap, *config["entrypoint"], *config["cmd"]], env=env, capture_output=True, text=True, timeout=SECONDS)
    check("without TLS, tokens or --insecure it does not expose itself", refused.returncode == 1 and "reachable from other machines" in refused.stderr,
          refused)
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
