#!/usr/bin/env python3
"""Ranks on two machines: two network namespaces joined by one cable, each with its own hosts file, and in each a rank that was started
as torchrun starts one. Needs iproute2 and the permission to make namespaces; without them it says so and passes.

    two_machines_test.py PATH_OF_SLUICE
"""
import contextlib
import json
import os
import subprocess
import sys
import tempfile

from binary import json_lines, run_tests

BINARY = os.path.abspath(sys.argv[1])
WORDS = ["--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "24"]
ENOUGH = 60  # seconds, for whatever takes one
FOX, HEN = "10.213.7.1", "10.213.7.2"


class NotAllowed(Exception):
    pass


class Machine:
    """A network namespace and a mount namespace, alive as long as the process that waits in it."""

    def __init__(self, *words):
        self.process = subprocess.Popen([*words, "sh", "-c", "echo made; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "made\n":
            raise NotAllowed(self.process.communicate()[1].strip())

    def inside(self, *words):
        return ["nsenter", "--target", str(self.process.pid), "--user", "--preserve-credentials", "--net", "--mount", *words]

    def do(self, *words, otherwise=AssertionError):
        done = subprocess.run(self.inside(*words), capture_output=True, text=True, timeout=ENOUGH)
        if done.returncode != 0:
            raise otherwise(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def set_up(self, *words):
        self.do(*words, otherwise=NotAllowed)

    def start(self, rank, master, *words):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
                       "MASTER_ADDR": master, "MASTER_PORT": "29500"}
        return subprocess.Popen(self.inside(BINARY, *words, "--tp", "2", "--threads", "1", "--parallel-start-timeout", "10"),
                                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self):
        self.process.communicate()


@contextlib.contextmanager
def two_machines():
    """`fox` at 10.213.7.1, whose own hosts file leads its name to the loopback as Debian's installer does, and `hen`."""
    with contextlib.ExitStack() as stack:
        fox = Machine("unshare", "--map-root-user", "--net", "--mount")
        stack.callback(fox.end)
        hen = Machine(*fox.inside("unshare", "--net", "--mount"))
        stack.callback(hen.end)
        fox.set_up("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(hen.process.pid))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for machine, address, name_of_fox in [(fox, FOX, "127.0.1.1"), (hen, HEN, FOX)]:
            machine.set_up("ip", "address", "add", f"{address}/24", "dev", "cable")
            machine.set_up("ip", "link", "set", "cable", "up")
            machine.set_up("ip", "link", "set", "lo", "up")
            hosts = f"{folder}/{address}"
            with open(hosts, "w") as file:
                file.write(f"127.0.0.1 localhost\n{name_of_fox} fox\n")
            machine.set_up("mount", "--bind", hosts, "/etc/hosts")
        yield fox, hen


def ended(process, seconds=ENOUGH):
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, f"{process.args} ended with {process.returncode}:\n{err}"
    return out


def generated_over(fox, hen, master):
    ranks = [fox.start(0, master, "generate", *WORDS, "--json"), hen.start(1, master, "generate", *WORDS, "--json")]
    outputs = [ended(rank) for rank in ranks]
    return json.loads(outputs[0])["token_ids"]


def expected_ids():
    [answer] = json_lines(BINARY, "generate", *WORDS, "--threads", "1", "--json")
    assert len(answer["token_ids"]) == 24, answer
    return answer["token_ids"]


def rank_0_at_an_address():
    assert generated_over(*MACHINES, FOX) == expected_ids()


def rank_0_at_a_name_that_is_the_loopback_at_home():
    assert generated_over(*MACHINES, "fox") == expected_ids()


def a_server_over_both():
    fox, hen = MACHINES
    server = fox.start(0, "fox", "serve", "--grpc", "127.0.0.1:0", "--http", "off")
    other = hen.start(1, "fox", "serve", "--grpc", "127.0.0.1:0", "--http", "off")
    try:
        words = server.stdout.readline().split()
        assert words and words[0] == "ready", server.communicate(timeout=ENOUGH)[1]
        address = dict(word.split("=", 1) for word in words[1:])["grpc"]
        lines = fox.do(BINARY, "client", "--target", address, *WORDS, "--json").splitlines()
        ids = [token for line in lines for choice in json.loads(line).get("choices", []) for token in choice.get("token_ids", [])]
        assert ids == expected_ids(), ids
        fox.do("kill", str(server.pid))
        ended(server)
        ended(other)  # rank 0 told it
    finally:
        server.kill()
        other.kill()


if __name__ == "__main__":
    try:
        with two_machines() as MACHINES:
            sys.exit(run_tests([rank_0_at_an_address, rank_0_at_a_name_that_is_the_loopback_at_home, a_server_over_both]))
    except (NotAllowed, FileNotFoundError) as reason:
        print(f"skipped: two network namespaces cannot be made here: {reason}")
