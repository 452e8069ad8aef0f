#!/usr/bin/env python3
"""A DeepSeek-V4-Flash-shaped model, scaled down (configs/shapes/v4-mini), served over gRPC behind a long prompt: its
resident memory at the peak is what `sluice inspect` said before.

    memory_client_test.py PATH_OF_SLUICE [POSITIONS]        2048 if left out; 32768 takes minutes

Prints one line per test and `N passed, N failed` last; exits with 1 if anything failed. Needs requirements.txt.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import grpc

from harness import ROOT, build_stubs, run_all, running_server, test

MODEL = ROOT / "configs/shapes/v4-mini"
TOLERANCE = 0.05
NEW_TOKENS = 24
SECONDS = 1500


class Fixture:
    def __init__(self, pb, pb_grpc, binary, positions):
        self.pb, self.pb_grpc, self.binary, self.positions = pb, pb_grpc, binary, positions


def peak_bytes(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


# Pages enough for one context, all of which the prompt fills.
def serve_and_compare(f, weights):
    shape = ["--weights", weights, "--threads", "2", "--context", str(f.positions)]
    report = json.loads(subprocess.run([f.binary, "inspect", str(MODEL), "--json", *shape], check=True, text=True,
                                       capture_output=True).stdout)
    pages_mib = -(-report["memory"]["cache"] // 2**20)
    shape += ["--cache-memory-mib", str(pages_mib)]
    report = json.loads(subprocess.run([f.binary, "inspect", str(MODEL), "--json", *shape], check=True, text=True,
                                       capture_output=True).stdout)
    predicted = report["memory"]["total"]
    with running_server(f.binary, "--model", str(MODEL), "--random-weights", "1", *shape) as (process, address):
        loaded = peak_bytes(process)
        stub = f.pb_grpc.InferenceStub(grpc.insecure_channel(address))
        ids = [(i * i * 31 + i * 7 + 3) % 32000 for i in range(f.positions - NEW_TOKENS)]
        answer = stub.Generate(
            f.pb.GenerateRequest(token_ids=f.pb.TokenIds(ids=ids), sampling=f.pb.Sampling(temperature=0),
                                 stopping=f.pb.Stopping(max_tokens=NEW_TOKENS, ignore_eos=True)), timeout=SECONDS)
        assert answer.usage.prompt_tokens == len(ids) and answer.usage.completion_tokens == NEW_TOKENS, answer.usage
        peak = peak_bytes(process)
    off = peak / predicted - 1
    print(f"        {weights}: predicted {report['memory']}, loaded {loaded}, peak {peak}: {off:+.1%}")
    assert abs(off) <= TOLERANCE, f"{weights}: expected {predicted} bytes +- {TOLERANCE:.0%}, found {peak}: {off:+.1%}"


@test
def resident_memory_is_what_inspect_said(f):
    serve_and_compare(f, "bf16")


@test
def and_in_four_bits(f):
    serve_and_compare(f, "int4-g32")


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as stubs:
        build_stubs(stubs, "sluice/v1/inference.proto")
        from sluice.v1 import inference_pb2, inference_pb2_grpc
        positions = int(sys.argv[2]) if len(sys.argv) == 3 else 2048
        return run_all(Fixture(inference_pb2, inference_pb2_grpc, sys.argv[1], positions))


if __name__ == "__main__":
    sys.exit(main())
