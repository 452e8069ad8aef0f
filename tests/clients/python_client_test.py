#!/usr/bin/env python3
"""A client that knows nothing but the .proto files: starts the real server and talks to it with grpcio.

    python_client_test.py PATH_OF_SLUICE

Prints one line per test and `N passed, N failed` last; exits with 1 if anything failed. Needs requirements.txt.
"""
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool

from harness import SECONDS, binary_argument, build_stubs, expect_error, run_all, running_server, test

LONG = dict(max_tokens=1500, ignore_eos=True)


class Fixture:
    def __init__(self, pb, pb_grpc, process, address):
        self.pb, self.process, self.address = pb, process, address
        self.channel = grpc.insecure_channel(address)
        self.stub = pb_grpc.InferenceStub(self.channel)

    def request(self, text="Once upon a time", max_tokens=24, **fields):
        return self.pb.GenerateRequest(text=text, sampling=self.pb.Sampling(temperature=0),
                                       stopping=self.pb.Stopping(max_tokens=max_tokens), **fields)

    def running_sequences(self):
        return self.stub.GetServer(self.pb.GetServerRequest(), timeout=SECONDS).load.running_sequences

    def generated_tokens(self):
        return self.stub.GetServer(self.pb.GetServerRequest(), timeout=SECONDS).load.generated_tokens

    @contextlib.contextmanager
    def work_stops_early(self):
        """Within the block one LONG answer begins and is given up: most of its tokens are never computed."""
        before = self.generated_tokens()
        yield
        end = time.monotonic() + SECONDS
        # The server's figures are those between two steps, so a first token can be here before they tell of its request.
        while self.running_sequences() > 0 or self.generated_tokens() == before:
            assert time.monotonic() < end, "the server still computes what nobody wants"
            time.sleep(0.01)
        generated = self.generated_tokens() - before
        assert 0 < generated < LONG["max_tokens"] * 2 // 3, f"{generated} tokens were computed for nobody"


@test
def streams_an_answer(f):
    text, ids, messages = "", [], list(f.stub.GenerateStream(f.request(), timeout=SECONDS))
    for message in messages:
        for choice in message.choices:
            text += choice.text
            ids += choice.token_ids
    last = messages[-1]
    assert len(text) > 20 and text.isprintable(), repr(text)
    assert len(messages) > 2, "an answer of 24 tokens came in one piece"
    assert not any(message.HasField("usage") for message in messages[:-1])
    assert last.usage.completion_tokens == len(ids) == 24
    assert last.choices[0].finish_reason == f.pb.FINISH_REASON_LENGTH
    assert 0 < last.timings.first_token_seconds <= last.timings.total_seconds
    assert last.timings.seconds_per_token > 0
    # Greedy: the unary call gives the same, and the ids mean the text.
    whole = f.stub.Generate(f.request(), timeout=SECONDS)
    assert (whole.choices[0].text, list(whole.choices[0].token_ids)) == (text, ids)
    assert f.stub.Detokenize(f.pb.DetokenizeRequest(token_ids=ids), timeout=SECONDS).text == text


@test
def token_ids_in_and_out(f):
    ids = f.stub.Tokenize(f.pb.TokenizeRequest(text="Once upon a time"), timeout=SECONDS).token_ids
    request = f.request()
    request.token_ids.ids.extend(ids)  # replaces the text: they are one oneof
    by_ids = f.stub.Generate(request, timeout=SECONDS)
    by_text = f.stub.Generate(f.request(), timeout=SECONDS)
    assert by_ids.choices[0].token_ids == by_text.choices[0].token_ids


@test
def the_same_seed_gives_the_same_answers(f):
    def answers(seed):
        request = f.request(n=3)
        request.sampling.temperature = 1
        request.sampling.seed = seed
        answer = f.stub.Generate(request, timeout=SECONDS)
        assert answer.seed == seed and [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.text for choice in answer.choices]

    first = answers(7)
    assert first == answers(7)
    assert len(set(first)) > 1, "three draws came out equal"
    assert first != answers(1234567)


@test
def answers_have_the_form_that_was_asked_for(f):
    request = f.request(n=2, max_tokens=80)
    request.sampling.temperature = 1.2
    request.sampling.seed = 3
    request.output.form.json_schema = json.dumps({
        "type": "object", "properties": {"who": {"enum": ["dog", "cat"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["who", "n"]})
    for choice in f.stub.Generate(request, timeout=SECONDS).choices:
        value = json.loads(choice.text)
        assert value["who"] in ("dog", "cat") and 0 <= value["n"] <= 99 and choice.finish_reason == f.pb.FINISH_REASON_STOP, choice
    chat = f.pb.ChatRequest(messages=[f.pb.Message(role=f.pb.ROLE_USER, content="Yes or no?")])
    chat.output.form.choice.values.extend(["yes", "no"])
    assert f.stub.Chat(chat, timeout=SECONDS).choices[0].text in ("yes", "no")
    for field, value, start in (("json_schema", "{", "form.json_schema: is not valid JSON from byte"),
                                ("json_schema", '{"type": 3}', "form.json_schema: "), ("regex", "(", "form.regex: "),
                                ("grammar", "root ::= (", "form.grammar: "), ("regex", "a" * 70000, "form.regex: must have 1 to 65536 bytes"),
                                ("structural_tag", "{}", "form.structural_tag: ")):
        bad = f.request()
        setattr(bad.output.form, field, value)
        for call in (f.stub.Generate, f.stub.GenerateStream):
            expect_error(lambda: call(bad, timeout=SECONDS), grpc.StatusCode.INVALID_ARGUMENT, start)


@test
def a_stop_string_ends_the_answer(f):
    free = f.stub.Generate(f.request(), timeout=SECONDS).choices[0].text
    stop = free[10:16]
    request = f.request()
    request.stopping.stop_strings.append(stop)
    for answer in (f.stub.Generate(request, timeout=SECONDS), *f.stub.GenerateStream(request, timeout=SECONDS)):
        assert stop not in "".join(choice.text for choice in answer.choices)
    whole = f.stub.Generate(request, timeout=SECONDS)
    choice = whole.choices[0]
    assert choice.text == free[:free.index(stop)]
    assert choice.finish_reason == f.pb.FINISH_REASON_STOP and choice.matched_stop_string == stop
    assert whole.usage.completion_tokens == len(choice.token_ids) < 24


@test
def log_probabilities_come_on_request(f):
    request = f.request(output=f.pb.Output(logprobs=2, prompt_logprobs=1, echo=True))
    answer = f.stub.Generate(request, timeout=SECONDS)
    choice = answer.choices[0]
    assert len(choice.logprobs) == len(choice.token_ids)
    for token_id, position in zip(choice.token_ids, choice.logprobs):
        assert position.chosen.token_id == token_id
        assert position.chosen == position.top[0], "a greedy token is not the most likely one"
        assert position.top[1].logprob <= position.top[0].logprob <= 0
    assert b"".join(position.chosen.token for position in choice.logprobs).decode() == choice.text
    assert answer.prompt.text == "Once upon a time"
    assert len(answer.prompt.logprobs) == answer.usage.prompt_tokens == len(answer.prompt.token_ids)
    assert not answer.prompt.logprobs[0].HasField("chosen")
    assert answer.prompt.logprobs[1].chosen.token_id == answer.prompt.token_ids[1]


@test
def chats(f):
    request = f.pb.ChatRequest(messages=[f.pb.Message(role=f.pb.ROLE_USER, content="Tell me a story about a dog.")],
                               sampling=f.pb.Sampling(temperature=0), stopping=f.pb.Stopping(max_tokens=30))
    streamed = "".join(choice.text for message in f.stub.ChatStream(request, timeout=SECONDS) for choice in message.choices)
    whole = f.stub.Chat(request, timeout=SECONDS).choices[0].text
    assert streamed == whole and len(whole) > 20, (streamed, whole)


@test
def health_is_serving(f):
    stub = health_pb2_grpc.HealthStub(f.channel)
    for service in ("", "sluice.v1.Inference"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    expect_error(lambda: stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=SECONDS),
                   grpc.StatusCode.NOT_FOUND, "")


@test
def reflection_describes_the_services(f):
    database = ProtoReflectionDescriptorDatabase(f.channel)
    services = set(database.get_services())
    assert {"sluice.v1.Inference", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= services, services
    pool = DescriptorPool(database)
    for foreign, method in [("inference.GRPCInferenceService", "ModelStreamInfer"), ("fmaas.GenerationService", "Generate"),
                            ("vllm.grpc.engine.VllmEngine", "GetTokenizer")]:
        assert foreign in services and pool.FindServiceByName(foreign).FindMethodByName(method), foreign
    service = pool.FindServiceByName("sluice.v1.Inference")
    assert {"Generate", "GenerateStream", "Chat", "ChatStream", "Tokenize", "Detokenize", "GetModel", "GetServer",
            "Abort"} == {method.name for method in service.methods}
    assert "top_p" in service.FindMethodByName("Generate").input_type.fields_by_name["sampling"].message_type.fields_by_name
    assert pool.FindServiceByName("grpc.health.v1.Health").FindMethodByName("Check")


@test
def model_and_server_are_described(f):
    model = f.stub.GetModel(f.pb.GetModelRequest(), timeout=SECONDS)
    assert model.architecture == "deepseek_v2" and model.vocab_size == 4096 and model.context_length == 2048, model
    assert model.has_tokenizer and model.chat_format == "deepseek-v2", model
    server = f.stub.GetServer(f.pb.GetServerRequest(), timeout=SECONDS)
    assert server.ready and server.version and server.model == model.name, server
    assert server.limits.max_message_bytes == 16 << 20 and server.load.generated_tokens > 0, server
    assert server.memory and server.load.cache_pages_total > 0, server


@test
def bad_input_is_named_and_the_server_goes_on(f):
    pb, invalid = f.pb, grpc.StatusCode.INVALID_ARGUMENT
    nan = float("nan")
    cases = [
        (f.request(text=""), invalid, "text:"),
        (pb.GenerateRequest(), invalid, "prompt:"),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5] * 2048)), invalid, "token_ids: has 2048 tokens"),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[4096])), invalid, "token_ids:"),
        (f.request(text="dog " * 5000), invalid, "text: has"),
        (f.request(model="no-such-model"), grpc.StatusCode.NOT_FOUND, "model:"),
        (f.request(n=0), invalid, "n:"),
        (f.request(n=17), invalid, "n:"),
        (f.request(max_tokens=0), invalid, "max_tokens:"),
        (f.request(request_id="a b"), invalid, "request_id:"),
        (f.request(output=pb.Output(logprobs=21)), invalid, "logprobs:"),
    ]
    for field, value in [("temperature", -1), ("temperature", nan), ("top_p", 0), ("top_p", nan), ("top_k", -1), ("min_p", 2),
                         ("repetition_penalty", 0), ("presence_penalty", 3), ("frequency_penalty", -3)]:
        cases.append((pb.GenerateRequest(text="hi", sampling=pb.Sampling(**{field: value})), invalid, field + ":"))
    cases.append((pb.GenerateRequest(text="hi", sampling=pb.Sampling(logit_bias={9999: 1})), invalid, "logit_bias:"))
    cases.append((pb.GenerateRequest(text="hi", stopping=pb.Stopping(stop_strings=[""])), invalid, "stop_strings[0]:"))
    for request, code, start in cases:
        expect_error(lambda: f.stub.Generate(request, timeout=SECONDS), code, start)
        expect_error(lambda: f.stub.GenerateStream(request, timeout=SECONDS), code, start)
    chat = pb.ChatRequest(messages=[pb.Message(content="no role")])
    expect_error(lambda: f.stub.Chat(chat, timeout=SECONDS), invalid, "messages[0].role:")
    expect_error(lambda: f.stub.Chat(pb.ChatRequest(), timeout=SECONDS), invalid, "messages:")
    assert f.stub.Generate(f.request(), timeout=SECONDS).choices[0].text


@test
def invalid_utf8_is_named(f):
    # No Python string can hold it, so the bytes go out as they are: field 2 (text), 3 bytes.
    for method in ("Generate", "Tokenize"):
        raw = f.channel.unary_unary(f"/sluice.v1.Inference/{method}", request_serializer=None, response_deserializer=None)
        expect_error(lambda: raw(b"\x12\x03a\xffb", timeout=SECONDS), grpc.StatusCode.INVALID_ARGUMENT, "text:")
    stream = f.channel.unary_stream("/sluice.v1.Inference/ChatStream", request_serializer=None, response_deserializer=None)
    expect_error(lambda: stream(b"\x12\x05\x08\x02\x12\x01\xff", timeout=SECONDS), grpc.StatusCode.INVALID_ARGUMENT,
                   "messages[0].content:")
    expect_error(lambda: stream(b"\xff\xff\xff", timeout=SECONDS), grpc.StatusCode.INVALID_ARGUMENT, "the request's 3 bytes")
    assert f.stub.Generate(f.request(), timeout=SECONDS).choices[0].text


@test
def a_message_beyond_the_limit_is_refused(f):
    expect_error(lambda: f.stub.Generate(f.request(text="x" * (17 << 20)), timeout=SECONDS),
                   grpc.StatusCode.RESOURCE_EXHAUSTED, "")
    assert f.stub.Generate(f.request(), timeout=SECONDS).choices[0].text


@test
def cancelling_stops_the_work(f):
    request = f.request()
    request.stopping.CopyFrom(f.pb.Stopping(**LONG))
    with f.work_stops_early():
        call = f.stub.GenerateStream(request, timeout=SECONDS)
        next(call)
        call.cancel()
    with f.work_stops_early():
        future = f.stub.Generate.future(request, timeout=SECONDS)
        end = time.monotonic() + SECONDS
        while f.running_sequences() == 0:
            assert time.monotonic() < end and not future.done(), "the unary call never ran"
        future.cancel()
    assert f.stub.Generate(f.request(), timeout=SECONDS).choices[0].text


@test
def a_vanished_client_stops_the_work(f):
    code = f"""
import grpc, sys, time
channel = grpc.insecure_channel({f.address!r})
call = channel.unary_stream("/sluice.v1.Inference/GenerateStream", request_serializer=None, response_deserializer=None)
stream = call(bytes.fromhex({f.pb.GenerateRequest(text="hi", stopping=f.pb.Stopping(**LONG)).SerializeToString().hex()!r}))
next(stream)
print("streaming", flush=True)
time.sleep(60)
"""
    with f.work_stops_early():
        client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert client.stdout.readline() == "streaming\n"
        client.kill()
        client.wait()
        client.stdout.close()


@test
def a_deadline_is_kept(f):
    request = f.request()
    request.stopping.CopyFrom(f.pb.Stopping(**LONG))
    begin = time.monotonic()
    with f.work_stops_early():
        expect_error(lambda: f.stub.Generate(request, timeout=0.1), grpc.StatusCode.DEADLINE_EXCEEDED, "")
        assert time.monotonic() - begin < 5


@test
def abort_ends_an_answer_by_its_id(f):
    request = f.request(request_id="abort-me")
    request.stopping.CopyFrom(f.pb.Stopping(**LONG))
    with f.work_stops_early():
        call = f.stub.GenerateStream(request, timeout=SECONDS)
        next(call)
        assert f.stub.Abort(f.pb.AbortRequest(request_id="abort-me"), timeout=SECONDS).num_aborted == 1
        expect_error(lambda: call, grpc.StatusCode.CANCELLED, "")
    assert f.stub.Abort(f.pb.AbortRequest(request_id="abort-me"), timeout=SECONDS).num_aborted == 0


@test
def metadata_comes_back(f):
    answer, call = f.stub.Generate.with_call(f.request(), timeout=SECONDS,
                                             metadata=[("x-request-id", "id-1"), ("x-correlation-id", "id-2")])
    metadata = dict(call.initial_metadata())
    assert metadata["x-request-id"] == "id-1" and metadata["x-correlation-id"] == "id-2", metadata
    assert answer.request_id == "id-1"


@test
def many_at_once_get_their_own_answers(f):
    alone = f.stub.Generate(f.request(), timeout=SECONDS).choices[0].text
    results = []

    def client():
        messages = f.stub.GenerateStream(f.request(), timeout=SECONDS)
        results.append("".join(choice.text for message in messages for choice in message.choices))

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone] * 16, results


@test
def a_taken_port_is_a_clear_error(f):
    second = subprocess.run([sys.argv[1], "serve", "--grpc", f.address], capture_output=True, text=True, timeout=SECONDS)
    assert second.returncode != 0 and f.address in second.stderr, second.stderr
    assert not second.stdout, second.stdout


@test
def sigterm_lets_answers_end(f):  # the last one: nothing is served after it
    request = f.request(max_tokens=200)
    request.stopping.ignore_eos = True
    call = f.stub.GenerateStream(request, timeout=SECONDS)
    next(call)
    f.process.send_signal(signal.SIGTERM)
    last = list(call)[-1]
    assert last.usage.completion_tokens == 200, last
    assert f.process.wait(SECONDS) == 0
    host, port = f.address.rsplit(":", 1)
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0, "the port is still open"


def main():
    binary = binary_argument(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        build_stubs(folder, "sluice/v1/inference.proto")
        from sluice.v1 import inference_pb2, inference_pb2_grpc
        with running_server(binary) as (process, address):
            fixture = Fixture(inference_pb2, inference_pb2_grpc, process, address)
            code = run_all(fixture)
            fixture.channel.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
