#!/usr/bin/env python3
"""KServe v2 as Triton's own client library speaks it: starts the real server and talks to it with tritonclient.

    kserve_client_test.py PATH_OF_SLUICE
"""
import json
import queue
import sys

import grpc
import numpy as np
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from harness import SECONDS, binary_argument, run_all, running_server, test, wait_until

MODEL = "demo-moe"
GREEDY = {"temperature": "0", "max_tokens": "24"}
LONG = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}
DATATYPES = {bytes: "BYTES", str: "BYTES", bool: "BOOL", int: "INT32"}


def tensor(name, value, datatype=None):
    values = np.array([value.encode() if isinstance(value, str) else value],
                      dtype=object if isinstance(value, (str, bytes)) else {bool: bool, int: np.int32}[type(value)])
    made = triton.InferInput(name, [1], datatype or DATATYPES[type(value)])
    made.set_data_from_numpy(values)
    return made


def inputs(text="Once upon a time", sampling=GREEDY, **others):
    made = [tensor("text_input", text)] + [tensor(name, value) for name, value in others.items()]
    return made + ([tensor("sampling_parameters", json.dumps(sampling))] if sampling is not None else [])


def texts(result, name="text_output"):
    return [value.decode() for value in result.as_numpy(name)]


def is_final(result):
    return result.get_response().parameters["triton_final_response"].bool_param


class Fixture:
    def __init__(self, address):
        self.address = address
        self.client = triton.InferenceServerClient(address)
        self.channel = grpc.insecure_channel(address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, *arguments, outputs=None, **others):
        return self.client.infer(MODEL, inputs(*arguments, **others), client_timeout=SECONDS,
                                 outputs=[triton.InferRequestedOutput(name) for name in outputs or []] or None)

    def stream(self, requests, headers=None, enable_empty_final_response=False):
        """Sends all requests ({"id": inputs}) on one stream; the results and errors in order of arrival."""
        arrived = queue.Queue()
        with triton.InferenceServerClient(self.address) as client:
            client.start_stream(lambda result, error: arrived.put(error or result), headers=headers)
            for request_id, made in requests.items():
                client.async_stream_infer(MODEL, made, request_id=request_id,
                                          enable_empty_final_response=enable_empty_final_response)
            seen, finals = [], 0
            while finals < len(requests):
                item = arrived.get(timeout=SECONDS)
                seen.append(item)
                finals += isinstance(item, Exception) or is_final(item)
            client.stop_stream()
        assert arrived.empty(), "something came after the final responses"
        return seen

    def counts(self):
        return self.client.get_inference_statistics(MODEL, client_timeout=SECONDS).model_stats[0]

    def expect_error(self, call, code, words):
        try:
            call()
        except InferenceServerException as error:
            assert error.status() == f"StatusCode.{code}", f"expected {code}, got {error.status()}: {error.message()}"
            assert words in error.message(), f"expected {words!r} in {error.message()!r}"
            return
        raise AssertionError(f"expected {code} about {words!r}, but the call succeeded")


@test
def is_live_and_ready(f):
    assert f.client.is_server_live() and f.client.is_server_ready()
    assert f.client.is_model_ready(MODEL) and f.client.is_model_ready(MODEL, "1")
    assert not f.client.is_model_ready("other") and not f.client.is_model_ready(MODEL, "2")
    answer = health_pb2_grpc.HealthStub(f.channel).Check(
        health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"), timeout=SECONDS)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@test
def describes_itself(f):
    server = f.client.get_server_metadata()
    assert server.name == "sluice" and server.version and "statistics" in server.extensions
    model = f.client.get_model_metadata(MODEL)
    assert model.name == MODEL and list(model.versions) == ["1"]
    shapes = {made.name: (made.datatype, list(made.shape)) for made in model.inputs}
    assert shapes["text_input"] == ("BYTES", [1]) and shapes["stream"] == ("BOOL", [1]), shapes
    assert {made.name: made.datatype for made in model.outputs}["text_output"] == "BYTES"
    config = f.client.get_model_config(MODEL).config
    assert config.model_transaction_policy.decoupled and config.max_batch_size == 0
    optional = {made.name: made.optional for made in config.input}
    assert not optional["text_input"] and optional["sampling_parameters"]
    index = f.client.get_model_repository_index().models
    assert [(made.name, made.version, made.state) for made in index] == [(MODEL, "1", "READY")]
    for call in (f.client.get_model_metadata, f.client.get_model_config, f.client.get_inference_statistics):
        f.expect_error(lambda: call("other"), "NOT_FOUND", '"other"')
        f.expect_error(lambda: call(MODEL, "7"), "NOT_FOUND", '"7"')


@test
def infers_whole_answers(f):
    result = f.infer(exclude_input_in_output=True, return_finish_reason=True, return_num_input_tokens=True,
                     return_num_output_tokens=True, return_cumulative_logprob=True, return_logprobs=True)
    text = texts(result)[0]
    assert len(text) > 20 and text.isprintable(), repr(text)
    assert texts(result, "finish_reason") == ["length"]
    assert result.as_numpy("num_output_tokens").tolist() == [24] and result.as_numpy("num_input_tokens")[0] > 3
    logprobs = json.loads(texts(result, "logprobs")[0])
    assert len(logprobs) == 24 and "".join(list(t.values())[0]["decoded_token"] for t in logprobs) == text
    total = sum(list(t.values())[0]["logprob"] for t in logprobs)
    assert abs(result.as_numpy("cumulative_logprob")[0] - total) < 1e-3
    assert "triton_final_response" in result.get_response().parameters
    # By default the prompt comes first, and nothing but the text comes.
    whole = f.infer()
    assert texts(whole) == ["Once upon a time" + text]
    assert [made.name for made in whole.get_response().outputs] == ["text_output"]


@test
def takes_each_way_of_saying_how_much(f):
    def num_tokens(sampling, parameters=None, sequence_id=0, priority=0, **others):
        made = inputs(sampling=sampling, return_num_output_tokens=True, exclude_input_in_output=True, **others)
        result = f.client.infer(MODEL, made, parameters=parameters, sequence_id=sequence_id, priority=priority,
                                client_timeout=SECONDS)
        return result.as_numpy("num_output_tokens")[0]

    greedy = {"temperature": 0, "ignore_eos": True}
    assert num_tokens({**greedy, "max_tokens": 7}) == 7
    assert num_tokens({**greedy, "max_tokens": "7"}) == 7
    assert num_tokens(greedy, max_tokens=5) == 5  # as TensorRT-LLM's clients say it
    assert num_tokens({"temperature": 0}, max_tokens=9, min_length=9) == 9
    assert num_tokens(None, parameters={"max_tokens": 6, "temperature": 0.0, "ignore_eos": True}) == 6
    assert num_tokens(None, parameters={"max_tokens": "6", "ignore_eos": True}, sequence_id=4, priority=1) == 6


@test
def structured_outputs_hold(f):
    for name in ("structured_outputs", "guided_decoding"):
        result = f.infer(sampling={"temperature": 1, "seed": 2, "max_tokens": 40, name: {"regex": "[x-z]{4}"}}, exclude_input_in_output=True)
        assert len(texts(result)[0]) == 4 and set(texts(result)[0]) <= set("xyz"), texts(result)
    for form, words in (({"regex": "("}, "sampling_parameters: structured_outputs: "), ({"regexp": "a"}, "structured_outputs.regexp"),
                        ({"json": "["}, "structured_outputs: expected a JSON object")):
        f.expect_error(lambda: f.infer(sampling={**GREEDY, "structured_outputs": form}), "INVALID_ARGUMENT", words)


@test
def several_choices_and_stops(f):
    sampling = {"temperature": 1, "seed": 7, "n": 3, "max_tokens": 12}
    result = f.infer(sampling=sampling, exclude_input_in_output=True)
    assert len(set(texts(result))) > 1 and result.as_numpy("text_output").shape == (3,)
    free = texts(f.infer(exclude_input_in_output=True))[0]
    stop = free[10:16]
    stopped = f.infer(sampling={**GREEDY, "stop": stop}, exclude_input_in_output=True, return_finish_reason=True)
    assert texts(stopped) == [free[:free.index(stop)]] and texts(stopped, "finish_reason") == ["stop"]


@test
def streams_one_request_as_many_responses(f):
    sampling = {"temperature": 0, "max_tokens": 200, "ignore_eos": True}
    whole = texts(f.infer(sampling=sampling, exclude_input_in_output=True))[0]
    for flag in ("stream", "streaming"):
        made = inputs(sampling=sampling, **{flag: True}, return_finish_reason=True, return_num_output_tokens=True)
        for enable in (False, True):
            results = f.stream({"7": made}, enable_empty_final_response=enable)
            assert not any(isinstance(result, Exception) for result in results), results
            assert "".join(texts(result)[0] for result in results) == whole
            assert len(results) > 2, "200 tokens came in one piece"
            assert [is_final(result) for result in results] == [False] * (len(results) - 1) + [True]
            assert {result.get_response().id for result in results} == {"7"}
            assert sum(int(result.as_numpy("num_output_tokens")[0]) for result in results) == 200
            assert texts(results[-1], "finish_reason") == ["length"]
            assert texts(results[0], "finish_reason") == ["None"]


@test
def streams_whole_answers_too(f):
    results = f.stream({"1": inputs()})
    assert len(results) == 1 and texts(results[0]) == texts(f.infer())


@test
def many_requests_share_a_stream(f):
    whole = texts(f.infer(exclude_input_in_output=True))[0]
    requests = {str(i): inputs(stream=True) for i in range(12)}
    requests["bad"] = inputs(text="", stream=True)
    joined = {}
    errors = []
    for result in f.stream(requests):
        if isinstance(result, Exception):
            errors.append(result)
            continue
        request_id = result.get_response().id
        joined[request_id] = joined.get(request_id, "") + texts(result)[0]
    assert joined == {str(i): whole for i in range(12)}, joined
    assert len(errors) == 1 and "text_input" in errors[0].message(), errors


@test
def errors_name_the_tensor(f):
    def call(made, **others):
        return lambda: f.client.infer(MODEL, made, client_timeout=SECONDS, **others)

    text = tensor("text_input", "hi")
    bad = "INVALID_ARGUMENT"
    f.expect_error(call([text, tensor("tempo", True)]), bad, '"tempo" is not known')
    f.expect_error(call([tensor("stream", False)]), bad, "text_input: expected a BYTES tensor")
    f.expect_error(call([tensor("text_input", 7)]), bad, "text_input: expected datatype BYTES, found \"INT32\"")
    f.expect_error(call([text, text]), bad, '"text_input" is there twice')
    f.expect_error(call([tensor("text_input", b"a\xff")]), bad, "text_input: is not valid UTF-8")
    f.expect_error(call([tensor("text_input", "")]), bad, "text_input: must not be empty")
    f.expect_error(call([tensor("text_input", "dog " * 5000)]), bad, "text_input: has")
    two = triton.InferInput("text_input", [2], "BYTES")
    two.set_data_from_numpy(np.array([b"a", b"b"], dtype=object))
    f.expect_error(call([two]), bad, "text_input: expected shape [1], found [2]")
    for sampling, words in [("{", "sampling_parameters: "), ("[1]", "expected a JSON object"),
                            ('{"top_q": 1}', "\"top_q\": is not known"), ('{"top_p": "x"}', "top_p: expected a number"),
                            ('{"top_p": 2}', "sampling_parameters: top_p: must be in (0, 1], got 2"),
                            ('{"max_tokens": 1.5}', "max_tokens: expected a whole number"), ('{"n": 99}', "n: must be in"),
                            ('{"stop": [1]}', "stop: expected a string")]:
        f.expect_error(call([text, tensor("sampling_parameters", sampling)]), bad, words)
    f.expect_error(call([text, tensor("sampling_parameters", b"\"\xff\"")]), bad, "sampling_parameters")
    f.expect_error(call([text, tensor("sampling_parameters", '{"use_beam_search": true}')]), "FAILED_PRECONDITION",
                   "use_beam_search")
    f.expect_error(call([text], outputs=[triton.InferRequestedOutput("image")]), bad, '"image" is not known')
    f.expect_error(call([text], parameters={"tempo": 1}), bad, '"tempo": is not known')
    f.expect_error(call([text, tensor("stream", True)]), bad, "stream: ModelInfer gives one response")
    f.expect_error(lambda: f.client.infer("other", [text]), "NOT_FOUND", '"other"')
    f.expect_error(lambda: f.client.infer(MODEL, [text], model_version="2"), "NOT_FOUND", '"2"')
    assert texts(f.infer())


@test
def stream_errors_travel_both_ways(f):
    inside = f.stream({"1": inputs(sampling={"top_p": 2}, stream=True)})
    assert isinstance(inside[0], InferenceServerException) and "top_p: must be in" in inside[0].message(), inside
    outside = f.stream({"1": inputs(sampling={"top_p": 2}, stream=True)}, headers={"triton_grpc_error": "true"})
    assert outside[0].status() == "StatusCode.INVALID_ARGUMENT", outside
    assert texts(f.infer())


@test
def unsupported_methods_say_why(f):
    f.expect_error(lambda: f.client.load_model(MODEL), "UNIMPLEMENTED", "stays")
    f.expect_error(lambda: f.client.register_system_shared_memory("a", "/b", 10), "UNIMPLEMENTED", "messages")
    f.expect_error(lambda: f.client.get_log_settings(), "UNIMPLEMENTED", "options")


@test
def plain_kserve_clients_use_typed_contents(f):
    request = service_pb2.ModelInferRequest(model_name=MODEL, id="typed")
    for name, datatype, field, value in [("text_input", "BYTES", "bytes_contents", b"Once upon a time"),
                                         ("max_tokens", "INT64", "int64_contents", 4),
                                         ("exclude_input_in_output", "BOOL", "bool_contents", True),
                                         ("return_num_output_tokens", "BOOL", "bool_contents", True)]:
        made = request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        getattr(made.contents, field).append(value)
    answer = f.stub.ModelInfer(request, timeout=SECONDS)
    assert not answer.raw_output_contents and answer.id == "typed"
    outputs = {made.name: made.contents for made in answer.outputs}
    assert outputs["text_output"].bytes_contents[0] and outputs["num_output_tokens"].uint_contents[0] == 4


@test
def a_deadline_and_a_timeout_end_the_work(f):
    f.expect_error(lambda: f.client.infer(MODEL, inputs(sampling=LONG), client_timeout=0.1), "DEADLINE_EXCEEDED", "")
    f.expect_error(lambda: f.client.infer(MODEL, inputs(sampling=LONG), timeout=50_000, client_timeout=SECONDS),
                   "DEADLINE_EXCEEDED", "")


@test
def cancelling_a_stream_stops_the_work(f):
    before = f.counts().inference_stats.fail.count
    arrived = queue.Queue()
    client = triton.InferenceServerClient(f.address)
    client.start_stream(lambda result, error: arrived.put(error or result))
    for i in range(3):
        client.async_stream_infer(MODEL, inputs(sampling=LONG, stream=True), request_id=str(i))
    running = set()
    while len(running) < 3:
        running.add(arrived.get(timeout=SECONDS).get_response().id)
    client.stop_stream(cancel_requests=True)
    wait_until(lambda: f.counts().inference_stats.fail.count == before + 3, "the answers of a cancelled stream go on")
    client.close()
    assert texts(f.infer())


@test
def statistics_count(f):
    before = f.counts()
    for _ in range(3):
        f.infer()
    f.stream({"1": inputs(stream=True)})
    f.expect_error(lambda: f.infer(text=""), "INVALID_ARGUMENT", "text_input")
    after = f.counts()
    stats = after.inference_stats
    assert after.inference_count - before.inference_count == 4
    assert stats.success.count - before.inference_stats.success.count == 4
    assert stats.fail.count - before.inference_stats.fail.count == 1
    parts = sum(getattr(stats, name).ns for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < stats.compute_infer.ns < parts <= stats.success.ns * 1.01, stats
    assert after.last_inference > 0 and after.memory_usage[0].byte_size > 0


def main():
    binary = binary_argument(__doc__)
    with running_server(binary) as (_, address):
        fixture = Fixture(address)
        code = run_all(fixture)
        fixture.client.close()
        fixture.channel.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
