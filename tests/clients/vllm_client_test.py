#!/usr/bin/env python3
"""vllm.grpc.engine.VllmEngine as gateways speak it: starts the real server and talks to it with the stubs that the
protocol's own package publishes.

    vllm_client_test.py PATH_OF_SLUICE
"""
import hashlib
import io
import json
import re
import sys
import tempfile
import zipfile

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2 as pb, vllm_engine_pb2_grpc

from harness import ROOT, SECONDS, binary_argument, build_stubs, expect_error, run_all, running_server, test, wait_until

PROMPT = [100, 200, 300, 301, 302]
INVALID, FAILED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


def request(stream=True, ids=PROMPT, request_id="", text=None, **sampling):
    made = pb.GenerateRequest(request_id=request_id, stream=stream,
                              sampling_params=pb.SamplingParams(**{"temperature": 0, "max_tokens": 24, **sampling}))
    if text is None:
        made.tokenized.input_ids.extend(ids)
    else:
        made.text = text
    return made


class Fixture:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.stub = vllm_engine_pb2_grpc.VllmEngineStub(self.channel)
        self.native = None  # what text() needs

    def generate(self, made):
        """Chunks and completes, each by index."""
        chunks, completes = {}, {}
        for message in self.stub.Generate(made, timeout=SECONDS):
            if message.HasField("chunk"):
                assert message.chunk.index not in completes, "a chunk after the complete message"
                chunks.setdefault(message.chunk.index, []).append(message.chunk)
            else:
                assert message.complete.index not in completes
                completes[message.complete.index] = message.complete
        return chunks, completes

    def ids(self, made):
        return list(self.generate(made)[1][0].output_ids)

    def text(self, ids):
        """The gateway's work; the native service on the same port does it here."""
        if not self.native:
            with tempfile.TemporaryDirectory() as folder:
                build_stubs(folder, "sluice/v1/inference.proto")
                from sluice.v1 import inference_pb2, inference_pb2_grpc
                self.native = inference_pb2, inference_pb2_grpc.InferenceStub(self.channel)
        messages, stub = self.native
        return stub.Detokenize(messages.DetokenizeRequest(token_ids=ids), timeout=SECONDS).text


@test
def chunks_join_to_the_complete_message(f):
    chunks, completes = f.generate(request(max_tokens=200, ignore_eos=True))
    joined = [token for chunk in chunks[0] for token in chunk.token_ids]
    assert len(joined) == 200 and joined == list(completes[0].output_ids) and len(chunks[0]) > 2
    assert [chunk.completion_tokens for chunk in chunks[0]][-1] == 200 and chunks[0][0].prompt_tokens == 5
    assert (completes[0].finish_reason, completes[0].prompt_tokens, completes[0].completion_tokens) == ("length", 5, 200)
    # Not streaming: the same, in one message.
    chunks, completes = f.generate(request(stream=False, max_tokens=200, ignore_eos=True))
    assert not chunks and list(completes[0].output_ids) == joined
    assert completes[0].cached_tokens > 0, "the repeated prompt was computed again"


@test
def each_choice_is_closed(f):
    made = request(temperature=1, seed=7, n=3, max_tokens=12)
    chunks, completes = f.generate(made)
    assert set(chunks) == set(completes) == {0, 1, 2}
    for index, complete in completes.items():
        assert [token for chunk in chunks[index] for token in chunk.token_ids] == list(complete.output_ids)
    assert len({tuple(complete.output_ids) for complete in completes.values()}) > 1
    again = f.generate(made)[1]
    assert {i: list(c.output_ids) for i, c in again.items()} == {i: list(c.output_ids) for i, c in completes.items()}


@test
def plain_zeros_mean_defaults(f):
    # Nothing but a prompt: temperature 1, everything else off, up to the end of the context.
    made = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=PROMPT), stream=False)
    made.tokenized.input_ids.extend([7] * 1900)
    made.sampling_params.ignore_eos = True
    made.sampling_params.seed = 3
    complete = f.generate(made)[1][0]
    assert complete.finish_reason == "length" and complete.completion_tokens + complete.prompt_tokens >= 2047, complete
    assert len(set(complete.output_ids)) > 20, "temperature 0 was drawn, not 1"


@test
def text_truncation_and_stops(f):
    assert f.ids(request(text="Once upon a time"))
    whole = f.ids(request(ids=PROMPT[-3:]))
    assert f.ids(request(truncate_prompt_tokens=3)) == whole
    assert f.ids(request(truncate_prompt_tokens=-1)) == f.ids(request())
    stop = whole[6]
    complete = f.generate(request(ids=PROMPT[-3:], stop_token_ids=[stop]))[1][0]
    assert complete.finish_reason == "stop" and complete.matched_token_id == stop
    assert list(complete.output_ids) == whole[:whole.index(stop) + 1]
    free = f.generate(request(text="Once upon a time", stop=[" the", " a", " to", "."]))[1][0]
    assert free.finish_reason == "stop" and free.matched_stop_str in {" the", " a", " to", "."}, free


@test
def log_probabilities_come_on_request(f):
    made = request(logprobs=2, prompt_logprobs=1)
    chunks, completes = f.generate(made)
    given = chunks[0][0].input_logprobs
    assert list(given.token_ids) == PROMPT and not given.token_logprobs[0].HasField("value")
    assert given.token_logprobs[1].value <= 0 and len(given.top_logprobs[1].values) == 1
    for chunk in chunks[0]:
        assert list(chunk.output_logprobs.token_ids) == list(chunk.token_ids)
        for logprob, top in zip(chunk.output_logprobs.token_logprobs, chunk.output_logprobs.top_logprobs):
            assert len(top.values) == 2 and logprob == top.values[0] >= top.values[1]
    made.stream = False
    complete = f.generate(made)[1][0]
    assert list(complete.output_logprobs.token_ids) == list(complete.output_ids)
    assert list(complete.input_logprobs.token_ids) == PROMPT


@test
def constraints_hold(f):
    def text(**constraint):
        complete = f.generate(request(temperature=1, seed=5, max_tokens=60, **constraint))[1][0]
        assert complete.finish_reason == "stop" and complete.matched_token_id == complete.output_ids[-1], complete
        return f.text(complete.output_ids[:-1])

    assert re.fullmatch("[0-9]{3}-[0-9]{4}", text(regex="[0-9]{3}-[0-9]{4}"))
    assert text(choice=pb.ChoiceConstraint(choices=["left", "right"])) in ("left", "right")
    assert set(text(grammar='root ::= ("ab" | "cd"){2,4}')) <= set("abcd")
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["a"]}
    assert 1 <= json.loads(text(json_schema=json.dumps(schema)))["a"] <= 9
    tag = {"type": "structural_tag", "format": {"type": "tag", "begin": "<n>", "content": {"type": "regex", "pattern": "[0-9]"}, "end": "</n>"}}
    assert re.fullmatch("<n>[0-9]</n>", text(structural_tag=json.dumps(tag)))


@test
def errors_name_the_field(f):
    media = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=PROMPT), mm_inputs=pb.MultimodalInputs(im_token_id=3))
    transfer = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=PROMPT), kv_transfer_params_json="{}")
    rank = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=PROMPT), data_parallel_rank=1)
    for made, code, start in [
            (pb.GenerateRequest(), INVALID, "input:"), (request(ids=[]), INVALID, "token_ids:"),
            (request(ids=[4096]), INVALID, "token_ids:"), (request(ids=[5] * 2048), INVALID, "token_ids: has 2048 tokens"),
            (request(temperature=-1), INVALID, "temperature:"), (request(top_p=2), INVALID, "top_p:"),
            (request(max_tokens=0), INVALID, "max_tokens:"), (request(n=17), INVALID, "n:"),
            (request(logprobs=-1), INVALID, "logprobs:"), (request(logit_bias={-1: 1}), INVALID, "logit_bias:"),
            (request(truncate_prompt_tokens=0), INVALID, "truncate_prompt_tokens:"),
            (request(request_id="a b"), INVALID, "request_id:"), (request(json_schema="{"), INVALID, "constraint: is not valid JSON"),
            (request(regex="(a"), INVALID, "constraint:"), (request(json_schema='{"type": "strin"}'), INVALID, "constraint:"),
            (media, FAILED, "mm_inputs:"), (transfer, FAILED, "kv_transfer_params:"), (rank, INVALID, "data_parallel_rank:")]:
        expect_error(lambda: f.stub.Generate(made, timeout=SECONDS), code, start)
    for call in (lambda: f.stub.Embed(pb.EmbedRequest(), timeout=SECONDS),
                 lambda: f.stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(), timeout=SECONDS),
                 lambda: f.stub.FlushCache(common_pb2.FlushCacheRequest(), timeout=SECONDS)):
        expect_error(call, grpc.StatusCode.UNIMPLEMENTED, "vllm.grpc.engine.VllmEngine/")
    assert f.ids(request())


@test
def abort_and_cancel_end_the_work(f):
    call = f.stub.Generate(request(request_id="mine", max_tokens=2000, ignore_eos=True), timeout=SECONDS)
    next(call)
    f.stub.Abort(pb.AbortRequest(request_ids=["nobody", "mine"]), timeout=SECONDS)
    last = list(call)[-1]
    assert last.complete.finish_reason == "abort" and len(last.complete.output_ids) < 2000, last
    call = f.stub.Generate(request(max_tokens=2000, ignore_eos=True), timeout=SECONDS)
    next(call)
    call.cancel()
    wait_until(lambda: f.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=SECONDS).active_requests == 0,
               "a cancelled call goes on")


@test
def describes_model_and_server(f):
    health = f.stub.HealthCheck(pb.HealthCheckRequest(), timeout=SECONDS)
    assert health.healthy, health
    answer = health_pb2_grpc.HealthStub(f.channel).Check(
        health_pb2.HealthCheckRequest(service="vllm.grpc.engine.VllmEngine"), timeout=SECONDS)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    model = f.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=SECONDS)
    assert model.is_generation and model.served_model_name == "demo-moe" and model.vocab_size == 4096, model
    assert model.max_context_length == 2048 and list(model.architectures) == ["DeepseekV2ForCausalLM"], model
    assert list(model.eos_token_ids) and "temperature" in json.loads(model.default_sampling_params_json), model
    server = f.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=SECONDS)
    assert server.server_type == "vllm-grpc" and server.data_parallel_size == 1 and server.block_size == 64, server
    assert server.uptime_seconds > 0 and server.last_receive_timestamp > 1.6e9 and server.max_num_seqs == 256, server


@test
def loads_are_real(f):
    call = f.stub.Generate(request(max_tokens=2000, ignore_eos=True), timeout=SECONDS)
    next(call)
    loads = f.stub.GetLoads(pb.GetLoadsRequest(), timeout=SECONDS)
    load = loads.loads[0]
    call.cancel()
    assert loads.dp_rank_count == 1 and loads.timestamp.endswith("Z") and loads.version
    assert load.num_total_reqs == 1 and load.num_running_reqs <= 1 and load.max_running_requests == 256, load
    assert 0 < load.max_total_num_tokens and 0 <= load.token_usage < 1 and load.cache_hit_rate > 0, load
    assert load.gen_throughput >= 0
    expect_error(lambda: f.stub.GetLoads(pb.GetLoadsRequest(dp_rank=1), timeout=SECONDS), INVALID, "dp_rank:")


@test
def the_tokenizer_travels_as_a_zip(f):
    chunks = list(f.stub.GetTokenizer(common_pb2.GetTokenizerRequest(), timeout=SECONDS))
    data = b"".join(chunk.data for chunk in chunks)
    assert all(not chunk.sha256 for chunk in chunks[:-1])
    assert chunks[-1].sha256 == hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        model = ROOT / "configs/demo-moe"
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            assert archive.read(name) == (model / name).read_bytes(), name


def main():
    binary = binary_argument(__doc__)
    with running_server(binary) as (_, address):
        fixture = Fixture(address)
        code = run_all(fixture)
        fixture.channel.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
