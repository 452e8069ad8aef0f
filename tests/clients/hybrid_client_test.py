#!/usr/bin/env python3
"""DeepSeek-V4 from outside: the real server on a small random checkpoint, asked over gRPC for what transformers computed.

    hybrid_client_test.py PATH_OF_SLUICE

Prints one line per test and `N passed, N failed` last; exits with 1 if anything failed. Needs requirements.txt.
"""
import json
import sys
import tempfile

import grpc

from harness import ROOT, SECONDS, binary_argument, build_stubs, expect_error, run_all, running_server, test

MODEL = ROOT / "tests/golden/transformers/v4_flash"


class Fixture:
    def __init__(self, pb, pb_grpc, address):
        self.pb, self.stub = pb, pb_grpc.InferenceStub(grpc.insecure_channel(address))
        self.prompts = json.loads((MODEL / "goldens.json").read_text())["prompts"]

    def request(self, ids, max_tokens=24, **fields):
        return self.pb.GenerateRequest(token_ids=self.pb.TokenIds(ids=ids), sampling=self.pb.Sampling(temperature=0),
                                       stopping=self.pb.Stopping(max_tokens=max_tokens, ignore_eos=True), **fields)


@test
def answers_are_those_of_transformers(f):
    for prompt in f.prompts:
        ids = []
        for message in f.stub.GenerateStream(f.request(prompt["token_ids"]), timeout=SECONDS):
            for choice in message.choices:
                ids += choice.token_ids
        assert ids == prompt["greedy_24"], prompt["name"]


@test
def asked_again_all_at_once_and_from_the_cache(f):
    calls = [f.stub.Generate.future(f.request(prompt["token_ids"]), timeout=SECONDS) for prompt in f.prompts * 4]
    for call, prompt in zip(calls, f.prompts * 4):
        assert list(call.result().choices[0].token_ids) == prompt["greedy_24"], prompt["name"]
    usage = f.stub.Generate(f.request(f.prompts[-1]["token_ids"]), timeout=SECONDS).usage
    # 301 tokens: the four full pages; what stands in the last one cannot be cut back to the prompt's end.
    assert usage.cached_prompt_tokens == 256, usage


@test
def text_needs_a_tokenizer(f):
    request = f.pb.GenerateRequest(text="Hello", stopping=f.pb.Stopping(max_tokens=1))
    expect_error(lambda: f.stub.Generate(request, timeout=SECONDS), grpc.StatusCode.FAILED_PRECONDITION, "")


def main():
    binary = binary_argument(__doc__)
    with tempfile.TemporaryDirectory() as stubs:
        build_stubs(stubs, "sluice/v1/inference.proto")
        from sluice.v1 import inference_pb2, inference_pb2_grpc
        flags = ["--model", str(MODEL), "--weights", "f32", "--cache-memory-mib", "64", "--threads", "2"]
        with running_server(binary, *flags) as (_process, address):
            return run_all(Fixture(inference_pb2, inference_pb2_grpc, address))


if __name__ == "__main__":
    sys.exit(main())
