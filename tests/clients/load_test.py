#!/usr/bin/env python3
"""Many clients at once, and many that are none, against a server with both doors on two threads:

  streams      half over gRPC, half over HTTP, all open at the same time: no error, every answer whole, memory bounded, and how long
               it took until each was computed first (admission)
  connections  opened, given random or cut bytes, and dropped, some of them hard: afterwards the server holds what it held before

    load_test.py PATH_OF_SLUICE [STREAMS CONNECTIONS]     1000 and 5000 unless told otherwise
"""
import asyncio
import json
import os
import random
import re
import resource
import socket
import struct
import sys
import tempfile
import time
import urllib.request

import grpc

from harness import build_stubs, run_all, running_server, test, wait_until

STREAMS, CONNECTIONS = (int(word) for word in (sys.argv[2:4] if len(sys.argv) > 3 else (1000, 5000)))
TOKENS = 16
MAX_GROWTH = 1 << 30  # bytes over the server that has just started, which holds the model and its cache
PATIENCE = 300


class Fixture:
    def __init__(self, pb, pb_grpc, process, doors):
        self.pb, self.pb_grpc, self.process = pb, pb_grpc, process
        self.grpc, self.http = doors["grpc"], doors["http"]
        self.stub = pb_grpc.InferenceStub(grpc.insecure_channel(self.grpc))

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        return {name: float(value) for name, value in re.findall(r"^([a-z_:]+(?:\{[^}]*\})?) (\S+)$", text, re.M)}

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def load(self):
        return self.stub.GetServer(self.pb.GetServerRequest(), timeout=PATIENCE).load

    def expect_idle(self):
        wait_until(lambda: self.load().open_answers == 0 and self.load().running_sequences == 0, "answers are still open")
        load = self.load()
        assert load.waiting_requests == load.waiting_tokens == load.cache_pages_used == 0, load
        sums = self.metrics()
        assert sums["sluice_running_sequences"] == sums["sluice_waiting_requests"] == 0, sums

    def expect_descriptors(self, before):
        # Idle connections of urllib and of the stub come and go; thousands would have been ours.
        wait_until(lambda: self.descriptors() <= before + 8, f"{before} descriptors were open, now {self.descriptors()}")


async def grpc_answer(f, stub, number):
    request = f.pb.GenerateRequest(text=f"Once upon a time {number}", sampling=f.pb.Sampling(temperature=0),
                                   stopping=f.pb.Stopping(max_tokens=TOKENS, ignore_eos=True))
    ids, last = 0, None
    async for answer in stub.GenerateStream(request, timeout=PATIENCE):
        ids += sum(len(choice.token_ids) for choice in answer.choices)
        last = answer
    assert ids == TOKENS == last.usage.completion_tokens, (ids, last)
    return last.timings.queue_seconds


async def http_answer(f, number):
    host, port = f.http.rsplit(":", 1)
    body = json.dumps({"prompt": f"Once upon a time {number}", "max_tokens": TOKENS, "temperature": 0, "stream": True, "ignore_eos": True,
                       "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer = await asyncio.wait_for(reader.read(-1), PATIENCE)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in answer, answer[-300:]
    assert b'"completion_tokens":%d' % TOKENS in answer, answer[-300:]


async def all_streams(f):
    async with grpc.aio.insecure_channel(f.grpc) as channel:
        stub = f.pb_grpc.InferenceStub(channel)
        tasks = [grpc_answer(f, stub, number) if number % 2 else http_answer(f, number) for number in range(STREAMS)]
        return [wait for wait in await asyncio.gather(*tasks) if wait is not None]


@test
def streams_of_both_doors_at_once(f):
    descriptors, memory = f.descriptors(), f.resident()
    begin = time.monotonic()
    waits = sorted(asyncio.run(all_streams(f)))
    elapsed = time.monotonic() - begin
    peak = f.resident()
    f.expect_idle()
    f.expect_descriptors(descriptors)
    # Of both doors, as the metrics tell it: the first bucket's bound below which 99% are.
    sums = f.metrics()
    total = sums["sluice_request_queue_seconds_count"]
    bound = next(float(le) for le, count in sorted(
        (float(name.split('"')[1]), count) for name, count in sums.items() if name.startswith("sluice_request_queue_seconds_bucket"))
        if count >= 0.99 * total)
    print(f"        {STREAMS} streams, {TOKENS} tokens each, in {elapsed:.1f} s; admission (gRPC) p50 {waits[len(waits) // 2]:.2f} s, p99 "
          f"{waits[len(waits) * 99 // 100]:.2f} s (both doors: within {bound:g} s); {(peak - memory) >> 20} MiB more resident, "
          f"{peak >> 20} MiB in all")
    assert peak - memory < MAX_GROWTH, f"{(peak - memory) >> 20} MiB"
    assert total >= STREAMS and len(waits) == STREAMS // 2
    # Nobody may wait longer than all of the work takes.
    assert waits[-1] <= elapsed


def bytes_to_drop(chance):
    """What a scanner, a broken client or a client that is torn away would send."""
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 200, "stream": True, "ignore_eos": True}).encode()
    post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 300))
    if kind == 1:
        return http2 + chance.randbytes(chance.randrange(0, 100))
    whole = [post, http2, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", post + post][chance.randrange(4)]
    return whole if kind == 2 else whole[:chance.randrange(len(whole) + 1)]


def drop_connections(f, count, seed):
    chance = random.Random(seed)
    for number in range(count):
        host, port = (f.grpc if number % 2 else f.http).rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            try:
                client.sendall(bytes_to_drop(chance))
                if chance.randrange(4) == 0:  # a reset instead of an orderly end
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif chance.randrange(4) == 0:
                    client.settimeout(0.01)
                    client.recv(1024)
            except (TimeoutError, ConnectionError):
                pass


@test
def connections_dropped_at_random_bytes(f):
    drop_connections(f, CONNECTIONS // 5, 1)  # what the allocator keeps for good is there after this
    f.expect_idle()
    descriptors, memory = f.descriptors(), f.resident()
    begin = time.monotonic()
    drop_connections(f, CONNECTIONS - CONNECTIONS // 5, 2)
    elapsed = time.monotonic() - begin
    f.expect_idle()
    f.expect_descriptors(descriptors)
    grown = f.resident() - memory
    print(f"        {CONNECTIONS} connections in {elapsed:.1f} s; {grown >> 10} KiB more resident, {f.descriptors()} descriptors")
    # 8 KiB for each that came after the first fifth would be a leak of the smallest connection.
    assert grown < max(16 << 20, 8192 * CONNECTIONS * 4 // 5), f"{grown >> 10} KiB"
    answer = f.stub.Generate(f.pb.GenerateRequest(text="Once", stopping=f.pb.Stopping(max_tokens=3)), timeout=PATIENCE)
    assert answer.usage.completion_tokens > 0


def main():
    if len(sys.argv) not in (2, 4):
        print(__doc__, file=sys.stderr)
        return 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        build_stubs(folder, "sluice/v1/inference.proto")
        from sluice.v1 import inference_pb2, inference_pb2_grpc
        with running_server(sys.argv[1], "--http", "127.0.0.1:0", "--threads", "2", "--queue-requests", "4096", "--log-level", "warn",
                            door=None) as (process, doors):
            return run_all(Fixture(inference_pb2, inference_pb2_grpc, process, doors))


if __name__ == "__main__":
    sys.exit(main())
