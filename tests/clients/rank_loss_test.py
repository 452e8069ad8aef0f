#!/usr/bin/env python3
"""A server over two ranks that loses one while 32 clients read their answers, half over gRPC and half over HTTP: every one of them hears
of it, the doors close, and the service is back by itself with the same answers. (While the group starts again nobody
listens.)

    rank_loss_test.py PATH_OF_SLUICE
"""
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from binary import ranks_of, run_tests, running_server

BINARY = sys.argv[1]
CLIENTS = 32
PROMPTS = ["Once upon a time", "The dog", "One day, a little girl named Lily", "Tom had a red ball"]
HEARD_WITHIN = 10  # seconds from a rank's death to the last client's word of it
TIMEOUT = 2        # of collectives: what a hung rank costs beyond that


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def post(address, body, timeout=60):
    connection = http.client.HTTPConnection(address, timeout=timeout)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def answers(address):
    def answer(prompt):
        response = post(address, {"prompt": prompt, "max_tokens": 12, "temperature": 0})
        body = json.load(response)
        assert response.status == 200, body
        return body["choices"][0]["text"]

    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(answer, PROMPTS))


class GrpcReader:
    """`sluice client` with an answer that takes longer than anybody waits here."""

    def __init__(self, doors, prompt):
        self.process = subprocess.Popen([BINARY, "client", "--target", doors["grpc"], "--prompt", prompt, "--max-tokens", "1500",
                                         "--ignore-eos", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def begin(self):
        assert self.process.stdout.readline(), self.process.communicate()[1]

    def finish(self):
        said = self.process.communicate()[1]
        self.heard = time.monotonic()
        assert self.process.returncode != 0, "the answer ended well although a rank was gone"
        assert "UNAVAILABLE" in said, said
        return said


class HttpReader:
    def __init__(self, doors, prompt):
        self.doors, self.prompt = doors, prompt

    def begin(self):
        self.response = post(self.doors["http"], {"prompt": self.prompt, "max_tokens": 1500, "ignore_eos": True, "stream": True})
        assert self.response.status == 200 and self.response.readline().startswith(b"data: "), self.response.status

    def finish(self):
        """The error event, or that the connection broke."""
        try:
            lines = self.response.read().decode().splitlines()
        except (http.client.HTTPException, OSError) as broken:
            self.heard = time.monotonic()
            return f"UNAVAILABLE: {type(broken).__name__}"
        self.heard = time.monotonic()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        assert events and "error" in events[-1], f"the answer ended without an error: {lines[-4:]}"
        assert events[-1]["error"]["code"] == "unavailable", events[-1]
        return f"UNAVAILABLE: {events[-1]['error']['message']}"


class Readers:
    """All clients, each with a thread of its own, from the first words on."""

    def __init__(self, doors):
        kinds = [GrpcReader, HttpReader]
        self.all = [kinds[i % 2](doors, PROMPTS[i % len(PROMPTS)]) for i in range(CLIENTS)]
        self.started = threading.Barrier(CLIENTS + 1)
        self.said, self.wrong = [None] * CLIENTS, []
        self.threads = [threading.Thread(target=self.read, args=(i,), daemon=True) for i in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        self.started.wait(60)

    def read(self, i):
        try:
            self.all[i].begin()
            self.started.wait(60)
            self.said[i] = self.all[i].finish()
        except Exception as error:
            self.wrong.append(f"client {i}: {error!r}")
            self.started.abort()

    def finish(self, since, within):
        for thread in self.threads:
            thread.join(max(0.0, since + within - time.monotonic()))
        hanging = [i for i in range(CLIENTS) if self.threads[i].is_alive()]
        assert not hanging and not self.wrong, (f"{len(hanging)} hang after {within} s", self.wrong[:3])
        return self.said, max(reader.heard for reader in self.all) - since


def is_ready(address):
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()


def lose_a_rank(process, doors, send, rank, within):
    """What the clients said, how long the last one waited, how long nobody was served."""
    readers = Readers(doors)
    former = ranks_of(process)
    os.kill(former[rank], send)
    begin = time.monotonic()
    said, waited = readers.finish(begin, within)
    while is_ready(doors["http"]):
        assert time.monotonic() < begin + within, "the broken group calls itself ready"
        time.sleep(0.005)
    ready = process.stdout.readline().split()  # of the group that takes over, at the same doors
    back = time.monotonic() - begin
    assert ready and dict(word.split("=", 1) for word in ready[1:]) == doors, ready
    assert not set(former) & set(ranks_of(process)), "a process of the broken group lives"
    print(f"        rank {rank} and {signal.Signals(send).name}: {len(said)} clients heard within {waited:.2f} s, served again after {back:.2f} s")
    return said


def every_client_hears_and_the_service_comes_back():
    wanted = {door: f"127.0.0.1:{free_port()}" for door in ("grpc", "http")}
    flags = ["--tp", "2", "--threads", "1", "--parallel-timeout", str(TIMEOUT), "--grpc", wanted["grpc"], "--http", wanted["http"]]
    with running_server(BINARY, *flags) as (process, _, _):
        expected = answers(wanted["http"])
        assert all(expected), expected
        for send, rank in [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)]:
            said = lose_a_rank(process, wanted, send, rank, HEARD_WITHIN + (TIMEOUT if send == signal.SIGSTOP else 0))
            if rank != 0:  # a rank 0 that is killed can say nothing itself
                assert all("rank 0 of 2" in words for words in said), said
            assert answers(wanted["http"]) == expected


if __name__ == "__main__":
    sys.exit(run_tests([every_client_hears_and_the_service_comes_back]))
