#!/usr/bin/env python3
"""fmaas.GenerationService with stubs made from the public file: starts the real server and talks to it.

    fmaas_client_test.py PATH_OF_SLUICE
"""
import json
import sys
import tempfile
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import SECONDS, binary_argument, build_stubs, expect_error, run_all, running_server, test

INVALID, FAILED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
TEXT = "Once upon a time"


class Fixture:
    def __init__(self, pb, pb_grpc, address):
        self.pb = pb
        self.channel = grpc.insecure_channel(address)
        self.stub = pb_grpc.GenerationServiceStub(self.channel)

    def params(self, max_new_tokens=24, method=0, sampling=None, response=None, decoding=None, truncate=0, **stopping):
        return self.pb.Parameters(method=method, sampling=self.pb.SamplingParameters(**sampling or {}),
                                  stopping=self.pb.StoppingCriteria(max_new_tokens=max_new_tokens, **stopping),
                                  response=self.pb.ResponseOptions(**response or {}),
                                  decoding=self.pb.DecodingParameters(**decoding or {}), truncate_input_tokens=truncate)

    def batch(self, *texts, params=None, **fields):
        return self.pb.BatchedGenerationRequest(requests=[self.pb.GenerationRequest(text=text) for text in texts],
                                                params=params or self.params(), **fields)

    def single(self, text=TEXT, params=None):
        return self.pb.SingleGenerationRequest(request=self.pb.GenerationRequest(text=text), params=params or self.params())

    def one(self, text=TEXT, params=None):
        return self.stub.Generate(self.batch(text, params=params), timeout=SECONDS).responses[0]

    def stream(self, params=None, text=TEXT):
        return list(self.stub.GenerateStream(self.single(text, params), timeout=SECONDS))


@test
def answers_a_batch_in_order(f):
    texts = [TEXT, "The dog", "A little girl named"]
    answers = f.stub.Generate(f.batch(*texts), timeout=SECONDS).responses
    assert len(answers) == 3
    for text, answer in zip(texts, answers):
        assert answer.text == f.one(text).text and len(answer.text) > 20, answer
        assert answer.generated_token_count == 24 and answer.stop_reason == f.pb.MAX_TOKENS and answer.input_token_count > 1
    assert len(f.stub.Generate(f.batch(), timeout=SECONDS).responses) == 0


@test
def streams_the_input_first_and_then_deltas(f):
    first, *rest = f.stream(f.params(max_new_tokens=200))
    assert first.input_token_count > 3 and not first.text and first.stop_reason == f.pb.NOT_FINISHED, first
    whole = f.one(params=f.params(max_new_tokens=200))
    assert "".join(message.text for message in rest) == whole.text and len(rest) > 2
    counts = [message.generated_token_count for message in rest]
    assert counts == sorted(counts) and counts[-1] == whole.generated_token_count
    assert [message.stop_reason for message in rest[:-1]] == [f.pb.NOT_FINISHED] * (len(rest) - 1)
    assert rest[-1].stop_reason == whole.stop_reason != f.pb.NOT_FINISHED


@test
def defaults_are_the_protocol_s(f):
    assert f.one(params=f.params(max_new_tokens=0)).generated_token_count == 20
    # Greedy ignores sampling, and names no seed; sampling does.
    hot = f.params(sampling=dict(temperature=5, top_k=3, seed=9))
    assert f.one(params=hot).text == f.one().text and f.one(params=hot).seed == 0
    sampled = [f.one(params=f.params(method=1, sampling=dict(seed=2**63 + seed))) for seed in (1, 1, 2)]
    assert sampled[0].text == sampled[1].text != sampled[2].text and sampled[0].seed == 2**63 + 1


@test
def stop_sequences_and_the_end(f):
    free = f.one().text
    stop = free[10:16]
    for include, ending in ((None, stop), (True, stop), (False, "")):
        fields = {} if include is None else dict(include_stop_sequence=include)
        answer = f.one(params=f.params(stop_sequences=[stop], **fields))
        assert answer.text == free[:free.index(stop)] + ending, (include, answer)
        assert answer.stop_reason == f.pb.STOP_SEQUENCE and answer.stop_sequence == stop
        assert "".join(m.text for m in f.stream(f.params(stop_sequences=[stop], **fields))) == answer.text
    ended = f.one(params=f.params(max_new_tokens=1500))
    assert ended.stop_reason == f.pb.EOS_TOKEN and ended.stop_sequence, ended
    full = f.one(TEXT + " dog" * 1900, params=f.params(max_new_tokens=2048, min_new_tokens=2048))
    assert full.stop_reason == f.pb.TOKEN_LIMIT and full.generated_token_count < 2048, full.generated_token_count


@test
def a_time_limit_is_a_reason_to_stop(f):
    params = f.params(max_new_tokens=2000, min_new_tokens=2000, time_limit_millis=60)
    begin = time.monotonic()
    answer = f.one(params=params)
    assert answer.stop_reason == f.pb.TIME_LIMIT and answer.generated_token_count < 2000, answer
    assert f.stream(params)[-1].stop_reason == f.pb.TIME_LIMIT
    assert time.monotonic() - begin < 10


@test
def shows_what_is_asked_for(f):
    response = dict(input_text=True, generated_tokens=True, input_tokens=True, token_logprobs=True, top_n_tokens=2)
    answer = f.one(params=f.params(response=response))
    plain = f.one()
    assert answer.text == TEXT + plain.text
    assert len(answer.tokens) == 24 and len(answer.input_tokens) == answer.input_token_count
    for token in answer.tokens:
        assert token.text == token.top_tokens[0].text and len(token.top_tokens) == 2, token
        assert token.logprob == token.top_tokens[0].logprob <= 0
    assert "".join(token.text for token in answer.tokens).replace("Ġ", " ").startswith(plain.text.split("\n")[0][:10])
    assert answer.input_tokens[0].logprob == 0 and answer.input_tokens[1].logprob < 0
    messages = f.stream(f.params(response=response))
    assert messages[0].text == TEXT and list(messages[0].input_tokens) == list(answer.input_tokens)
    assert [token for message in messages for token in message.tokens] == list(answer.tokens)


@test
def truncation_keeps_the_end(f):
    ids = f.stub.Tokenize(f.pb.BatchedTokenizeRequest(requests=[f.pb.TokenizeRequest(text=TEXT)]), timeout=SECONDS)
    count = ids.responses[0].token_count
    assert f.one(params=f.params(truncate=count)).text == f.one().text
    short = f.one(params=f.params(truncate=2))
    assert short.input_token_count == 2 and short.text != f.one().text


@test
def tokenizes(f):
    text = "Once upon a time… ünï 🐕"
    request = f.pb.BatchedTokenizeRequest(requests=[f.pb.TokenizeRequest(text=text), f.pb.TokenizeRequest(text=TEXT)],
                                          return_tokens=True, return_offsets=True)
    first, second = f.stub.Tokenize(request, timeout=SECONDS).responses
    assert first.token_count == len(first.tokens) == len(first.offsets) > second.token_count
    assert (first.offsets[0].start, first.offsets[0].end) == (0, 0), "the begin-of-sequence token spells nothing"
    assert text[first.offsets[1].start:first.offsets[1].end] == "Once" == first.tokens[1]
    assert first.offsets[-1].end == len(text) and all(o.start < o.end for o in first.offsets[1:])
    request.truncate_input_tokens = 2
    cut = f.stub.Tokenize(request, timeout=SECONDS).responses[1]
    assert cut.token_count == 2 and list(cut.tokens) == list(second.tokens)[-2:]


@test
def describes_itself(f):
    info = f.stub.ModelInfo(f.pb.ModelInfoRequest(model_id="demo-moe"), timeout=SECONDS)
    assert info.max_sequence_length == 2048 and info.model_kind == f.pb.ModelInfoResponse.DECODER_ONLY
    answer = health_pb2_grpc.HealthStub(f.channel).Check(
        health_pb2.HealthCheckRequest(service="fmaas.GenerationService"), timeout=SECONDS)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@test
def guided_answers_have_their_form(f):
    for guided, holds in ((dict(regex="[0-9]{3}"), lambda text: len(text) == 3 and text.isdigit()),
                          (dict(choice=dict(choices=["left", "right"])), lambda text: text in ("left", "right")),
                          (dict(grammar='root ::= "ab"+ "."'), lambda text: set(text) == set("ab.")),
                          (dict(json_schema='{"enum": ["x", 7]}'), lambda text: json.loads(text) in ("x", 7))):
        answer = f.one(params=f.params(decoding=guided, method=1, sampling=dict(seed=4)))
        assert answer.stop_reason == f.pb.EOS_TOKEN and holds(answer.text), (guided, answer)
    assert f.one(params=f.params(decoding=dict(format=1))).text.startswith("{")
    assert f.one(params=f.params(decoding=dict(format=0))).text == f.one().text


@test
def errors_name_the_field(f):
    details = dict(generated_tokens=True)
    cases = [
        (f.params(max_new_tokens=5000), INVALID, "max_new_tokens:"),
        (f.params(min_new_tokens=25), INVALID, "min_new_tokens: must be at most max_new_tokens (24), got 25"),
        (f.params(stop_sequences=["a"] * 7), INVALID, "stop_sequences: count: must be in [0, 6], got 7"),
        (f.params(stop_sequences=[""]), INVALID, "stop_sequences[0]: must have 1 to 240 bytes, got 0"),
        (f.params(stop_sequences=["x" * 241]), INVALID, "stop_sequences[0]: must have 1 to 240 bytes, got 241"),
        (f.params(response=dict(**details, top_n_tokens=11)), INVALID, "top_n_tokens: must be in [0, 10], got 11"),
        (f.params(response=dict(token_logprobs=True)), INVALID, "response:"),
        (f.params(response=dict(**details, token_ranks=True)), FAILED, "token_ranks:"),
        (f.params(decoding=dict(repetition_penalty=2.5)), INVALID, "repetition_penalty: must be in (0, 2]"),
        (f.params(decoding=dict(repetition_penalty=float("nan"))), INVALID, "repetition_penalty:"),
        (f.params(decoding=dict(length_penalty=dict(decay_factor=11))), INVALID, "length_penalty.decay_factor:"),
        (f.params(decoding=dict(length_penalty=dict(decay_factor=2))), FAILED, "length_penalty:"),
        (f.params(decoding=dict(json_schema="{")), INVALID, "guided: is not valid JSON"),
        (f.params(method=1, sampling=dict(top_p=1.5)), INVALID, "top_p:"),
        (f.params(method=1, sampling=dict(typical_p=0.5)), FAILED, "typical_p:"),
        (f.params(method=1, sampling=dict(temperature=-1)), INVALID, "temperature:")]
    for params, code, start in cases:
        expect_error(lambda: f.stub.GenerateStream(f.single(params=params), timeout=SECONDS), code, start)
        inner = start if not start.startswith(("typical_p:", "temperature:", "guided:")) else "requests[0]: " + start
        expect_error(lambda: f.stub.Generate(f.batch("hi", params=params), timeout=SECONDS), code, inner)
    expect_error(lambda: f.stub.Generate(f.batch("hi", ""), timeout=SECONDS), INVALID, "requests[1]: text:")
    expect_error(lambda: f.stub.Generate(f.batch("hi", model_id="other"), timeout=SECONDS), grpc.StatusCode.NOT_FOUND,
                 "model_id:")
    expect_error(lambda: f.stub.Generate(f.batch("hi", adapter_id="lora"), timeout=SECONDS), FAILED, "adapter_id:")
    metadata = [("x-correlation-id", "a b")]
    expect_error(lambda: f.stub.Generate(f.batch("hi"), timeout=SECONDS, metadata=metadata), INVALID, "requests[0]: x-corr")
    assert f.one().text


@test
def cancelling_a_batch_stops_it(f):
    from sluice.v1 import inference_pb2, inference_pb2_grpc
    server = inference_pb2_grpc.InferenceStub(f.channel)

    def load():
        return server.GetServer(inference_pb2.GetServerRequest(), timeout=SECONDS).load

    params = f.params(max_new_tokens=2000, min_new_tokens=2000)
    future = f.stub.Generate.future(f.batch(TEXT, "The dog", params=params), timeout=SECONDS)
    end = time.monotonic() + SECONDS
    while load().open_answers < 2:
        assert time.monotonic() < end and not future.done()
    future.cancel()
    while load().open_answers > 0:
        assert time.monotonic() < end, "a cancelled batch goes on"
    # By its correlation id, from elsewhere: whatever is there by then is the answer.
    answers = []
    caller = threading.Thread(target=lambda: answers.extend(
        f.stub.Generate(f.batch(TEXT, "The dog", params=params), timeout=SECONDS,
                        metadata=[("x-correlation-id", "corr-1")]).responses))
    caller.start()
    while server.Abort(inference_pb2.AbortRequest(request_id="corr-1"), timeout=SECONDS).num_aborted < 1:
        assert time.monotonic() < end
    server.Abort(inference_pb2.AbortRequest(request_id="corr-1"), timeout=SECONDS)
    caller.join()
    assert len(answers) == 2 and f.pb.CANCELLED in {answer.stop_reason for answer in answers}, answers


def main():
    binary = binary_argument(__doc__)
    with tempfile.TemporaryDirectory() as folder, running_server(binary) as (_, address):
        build_stubs(folder, "sluice/v1/inference.proto", "fmaas/generation.proto")
        from fmaas import generation_pb2, generation_pb2_grpc
        fixture = Fixture(generation_pb2, generation_pb2_grpc, address)
        code = run_all(fixture)
        fixture.channel.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
