#!/usr/bin/env python3
"""`sluice doctor`, and what `sluice serve` says, when something is wrong with the machine or the options: each mistake is named with
what to do, before anything is loaded.

    doctor_test.py PATH_OF_SLUICE
"""
import contextlib
import json
import pathlib
import socket
import subprocess
import sys

from binary import SECONDS, run_tests

BINARY = sys.argv[1]
SHAPES = pathlib.Path(__file__).resolve().parents[2] / "configs" / "shapes"
FREE = ["--grpc", "127.0.0.1:0", "--http", "off"]


def sluice(*words):
    return subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, timeout=SECONDS)


def doctor(*flags):
    """(exit code, {topic: check})"""
    done = sluice("doctor", "--json", *flags)
    object = json.loads(done.stdout)
    assert object["healthy"] == (done.returncode == 0), done
    return done.returncode, {check["topic"]: check for check in object["checks"]}


@contextlib.contextmanager
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def a_good_machine_gets_a_line_for_each_thing():
    code, checks = doctor(*FREE)
    assert code == 0, checks
    assert {"instructions", "cpus", "bandwidth", "huge pages", "numa", "memory", "open files", "clock", "cuda", "model", "plan",
            "disk tier", "addresses", "security"} <= checks.keys(), checks.keys()
    assert "GB/s" in checks["bandwidth"]["found"] and "GiB free" in checks["memory"]["found"]
    for check in checks.values():
        assert check["verdict"] in ("ok", "warn") and check["found"], check
        assert (check["verdict"] == "ok") == (not check["advice"]), check
    lines = sluice("doctor", *FREE).stdout.splitlines()
    assert all(line.startswith(("ok  ", "warn", "    ")) for line in lines), lines


def what_is_wrong_fails_with_advice():
    # Each run has several things wrong, and names each of them: none hides another. [(flags, {topic: words})]
    with taken_port() as address:
        for flags, wrong in (
                (["--grpc", address, "--model", "/nowhere", "--auth-tokens", "/nowhere.json", "--cache-disk", "/tmp"],
                 {"addresses": f'grpc: cannot listen on "{address}": Address already in use', "model": "/nowhere",
                  "tokens": "/nowhere.json cannot be read", "disk tier": "set cache.host_mib above 0"}),
                (["--http", address, "--model", SHAPES / "mini"],
                 {"addresses": f'http: cannot listen on "{address}": Address already in use', "model": "safetensors"}),
                (["--grpc", "127.0.0.1:99999", "--weights-cache", "/proc/weights", "--cache-disk", "/proc/pages", "--cache-host-mib", "64"],
                 {"addresses": "a port in [0, 65535]", "packed": "weights_cache: /proc/weights", "disk tier": "cache.disk: /proc/pages"}),
                (["--grpc", "192.0.2.1:5000", "--insecure", "--model", SHAPES / "v3", "--random-weights", "1", "--weights", "f32"],
                 {"addresses": "an address of this machine", "plan": "weights 2499.7"}),
                (["--grpc", "127.0.0.1:50977", "--http", "localhost:50977", "--context", "999999"],
                 {"addresses": "has the port of grpc", "context": "knows 2048 positions, asked for 999999"}),
                (["--grpc", "0.0.0.0:0", "--tp", "999"], {"security": "reachable from other machines", "ranks": "999"})):
            doors = [word for door, place in (("--grpc", "127.0.0.1:0"), ("--http", "off")) if door not in flags for word in (door, place)]
            code, checks = doctor(*doors, *flags)
            assert code == 1, (flags, checks)
            for topic, words in wrong.items():
                assert checks[topic]["verdict"] == "fail" and words in checks[topic]["found"], (flags, checks[topic])


def ranks_and_their_caches_are_counted():
    _, one = doctor(*FREE)
    code, two = doctor(*FREE, "--tp", "2")
    assert code == 0 and two["ranks"]["found"].startswith("2, each"), two["ranks"]
    assert " + 2 x cache" in two["plan"]["found"] and " x cache" not in one["plan"]["found"], two["plan"]
    code, small = doctor(*FREE, "--cache-memory-mib", "1")
    assert small["plan"]["verdict"] == "warn" and "one context of 2048 tokens does not fit" in small["plan"]["advice"], small["plan"]


def threads_beyond_the_cpus_are_a_warning():
    code, checks = doctor(*FREE, "--threads", "1000")
    assert code == 0 and checks["cpus"]["verdict"] == "warn" and "set threads to" in checks["cpus"]["advice"], checks["cpus"]


def a_gpu_that_is_not_there_fails():
    if pathlib.Path("/dev/nvidia0").exists():
        return
    code, checks = doctor(*FREE, "--device", "cuda")
    assert code == 1 and checks["cuda"]["verdict"] == "fail" and "there is no NVIDIA device" in checks["cuda"]["found"], checks["cuda"]
    assert checks["instructions"]["verdict"] != "fail", "the CPU is not to blame"


def serve_says_what_is_wrong_before_it_loads():
    with taken_port() as address:
        for flags, words in (
                (["--grpc", address], [f'grpc: cannot listen on "{address}"', "Address already in use", "ss -ltnp"]),
                (["--http", address], [f'http: cannot listen on "{address}"', "Address already in use"]),
                (["--grpc", "127.0.0.1"], ["grpc: expected HOST:PORT", '"127.0.0.1"']),
                (["--grpc", "nohost.invalid:1", "--insecure"], ["grpc: cannot listen on"]),
                (["--cache-disk", "/proc/pages", "--cache-host-mib", "64"], ["cache.disk: /proc/pages cannot be"]),
                (["--cache-disk", "/tmp"], ["cache.disk: pages reach it through host memory"]),
                (["--grpc", "127.0.0.1:50977", "--http", "0.0.0.0:50977", "--insecure"], ['http: "0.0.0.0:50977" has the port of grpc']),
                (["--model", "/nowhere"], ["model: /nowhere is no folder", "config.json"]),
                (["--model", SHAPES / "v3", "--random-weights", "1", "--weights", "f32"], ["do not fit into", "sluice inspect"])):
            done = sluice("serve", *([] if "--http" in flags else ["--http", "off"]), *([] if "--grpc" in flags else ["--grpc", "127.0.0.1:0"]),
                          *flags)
            assert done.returncode == 1 and not done.stdout, done
            assert all(word in done.stderr for word in words), (flags, done.stderr)
            assert "loaded" not in done.stderr, "minutes went by before it was said"


if __name__ == "__main__":
    sys.exit(run_tests([a_good_machine_gets_a_line_for_each_thing, what_is_wrong_fails_with_advice, ranks_and_their_caches_are_counted, threads_beyond_the_cpus_are_a_warning, a_gpu_that_is_not_there_fails,
                        serve_says_what_is_wrong_before_it_loads]))
