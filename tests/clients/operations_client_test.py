#!/usr/bin/env python3
"""What an operator does to a running server: ends it under load, changes its files, reads its log, follows its traces.

    operations_client_test.py PATH_OF_SLUICE
"""
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from certificates import Authority
from harness import SECONDS, binary_argument, build_stubs, expect_error, run_all, test, wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Server:
    """A server with both doors and a log that can be read while it runs."""

    def __init__(self, f, *flags):
        self.log_file = tempfile.TemporaryFile("w+")
        doors = [word for door in ("grpc", "http") if f"--{door}" not in flags for word in (f"--{door}", "127.0.0.1:0")]
        self.process = subprocess.Popen([f.binary, "serve", *doors, *map(str, flags)], stdout=subprocess.PIPE,
                                        stderr=self.log_file, text=True)
        words = self.process.stdout.readline().split()
        assert words and words[0] == "ready", self.log()
        doors = dict(word.split("=", 1) for word in words[1:])
        self.address, self.http = doors["grpc"], doors.get("http")
        self.pb, self.pb_grpc = f.pb, f.pb_grpc
        self.channel = grpc.insecure_channel(self.address)
        self.stub = f.pb_grpc.InferenceStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def log(self):
        self.log_file.seek(0)
        return self.log_file.read()

    def request(self, max_tokens, text="Once upon a time", **fields):
        return self.pb.GenerateRequest(text=text, sampling=self.pb.Sampling(temperature=0),
                                       stopping=self.pb.Stopping(max_tokens=max_tokens, ignore_eos=True), **fields)

    def healthy(self):
        answer = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def get(self, path, **headers):
        return self.ask("GET", path, None, headers)

    def ask(self, method, path, body, headers):
        connection = http.client.HTTPConnection(self.http, timeout=SECONDS)
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        with contextlib.closing(connection):
            return response.status, response.read().decode()

    def complete(self, max_tokens, started=None, **headers):
        """Tokens' events of a streamed completion over HTTP, and its last finish reason or error."""
        connection = http.client.HTTPConnection(self.http, timeout=SECONDS)
        connection.request("POST", "/v1/completions", json.dumps(
            {"model": "demo-moe", "prompt": "Once upon a time", "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0,
             "stream": True, "stream_options": {"include_usage": True}}), headers)
        response = connection.getresponse()
        assert response.status == 200, (response.status, response.read())
        tokens, last, done = 0, None, False
        with contextlib.closing(connection):
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                if started:
                    started()
                    started = None
                if line.strip() == b"data: [DONE]":
                    done = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    return tokens, event["error"], done
                for choice in event["choices"]:
                    last = choice["finish_reason"] or last
                if event.get("usage"):
                    tokens = event["usage"]["completion_tokens"]
        return tokens, last, done

    def stream(self, max_tokens, started=None):
        """The same over gRPC: number of tokens and the finish reason, or the error."""
        tokens, reason = 0, None
        try:
            for message in self.stub.GenerateStream(self.request(max_tokens), timeout=SECONDS):
                if started:
                    started()
                    started = None
                for choice in message.choices:
                    tokens += len(choice.token_ids)
                    reason = choice.finish_reason or reason
        except grpc.RpcError as error:
            return tokens, error.code()
        return tokens, reason


class Fixture:
    def __init__(self, binary, folder, pb, pb_grpc):
        self.binary, self.folder, self.pb, self.pb_grpc = binary, pathlib.Path(folder), pb, pb_grpc

    def new_token(self, name, *flags):
        made = subprocess.run([self.binary, "token", "--name", name, *flags], check=True, capture_output=True, text=True)
        return made.stdout.strip(), json.loads(made.stderr.splitlines()[-1])


@contextlib.contextmanager
def streams_in_flight(server, each, max_tokens):
    """Futures of `each` streams over gRPC and as many over HTTP, all of which have begun."""
    begun = threading.Semaphore(0)
    with concurrent.futures.ThreadPoolExecutor(2 * each) as pool:
        ours = [pool.submit(server.stream, max_tokens, begun.release) for _ in range(each)]
        theirs = [pool.submit(server.complete, max_tokens, begun.release) for _ in range(each)]
        for _ in range(2 * each):
            assert begun.acquire(timeout=SECONDS), "a stream did not begin"
        yield ours, theirs


@test
def sigterm_under_load_cuts_no_answer_within_the_grace_period(f):
    each, tokens = 40, 250
    with Server(f, "--drain-seconds", SECONDS) as server:
        assert server.healthy() and server.get("/ready")[0] == 200
        with streams_in_flight(server, each, tokens) as (ours, theirs):
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in server.log(), "the drain does not begin")
            # Health flips first, while the answers still run; the doors are open and say no.
            running = [future for future in ours + theirs if not future.done()]
            assert not server.healthy()
            assert server.get("/ready")[0] == 503
            expect_error(lambda: server.stub.Generate(server.request(1), timeout=SECONDS), grpc.StatusCode.UNAVAILABLE, "the server")
            assert server.ask("POST", "/v1/completions", {"model": "demo-moe", "prompt": "a"}, {})[0] == 503
            assert server.get("/health")[0] == 200, "alive while it drains"
            assert len(running) > each, f"only {len(running)} streams were left to be drained"
            assert [future.result() for future in ours] == [(tokens, server.pb.FINISH_REASON_LENGTH)] * each
            assert [future.result() for future in theirs] == [(tokens, "length", True)] * each
        assert server.process.wait(SECONDS) == 0
        assert "some answers were cut" not in server.log()


@test
def what_the_grace_period_does_not_hold_gets_unavailable(f):
    with Server(f, "--drain-seconds", 0.3) as server:
        with streams_in_flight(server, 5, 1900) as (ours, theirs):
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            for tokens, error in (future.result() for future in ours):
                assert 0 < tokens < 1900 and error == grpc.StatusCode.UNAVAILABLE, (tokens, error)
            for _, error, done in (future.result() for future in theirs):
                assert "shutting down" in error["message"], error
        assert server.process.wait(SECONDS) == 0
        assert time.monotonic() - begin < 10
        assert "some answers were cut" in server.log()


@test
def a_second_sigterm_ends_the_patience(f):
    with Server(f, "--drain-seconds", 3600) as server:
        with streams_in_flight(server, 2, 1900) as (ours, _):
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in server.log(), "the drain does not begin")
            server.process.send_signal(signal.SIGTERM)
            assert {future.result()[1] for future in ours} == {grpc.StatusCode.UNAVAILABLE}
        assert server.process.wait(10) == 0
        assert "SIGTERM again" in server.log()
        assert "some answers were cut" in server.log()


@test
def ready_comes_after_the_warm_up(f):
    with Server(f) as server:
        assert "warmed up in" in server.log()


@test
def a_revoked_token_ends_its_streams(f):
    alice, entry_of_alice = f.new_token("alice")
    bob, entry_of_bob = f.new_token("bob")
    file = f.folder / "tokens.json"

    def write(*entries):
        file.write_text(json.dumps({"tokens": entries}))

    write(entry_of_alice, entry_of_bob)
    with Server(f, "--http", "off", "--auth-tokens", file) as server:
        def open_stream(token):  # sixteen choices, so that it lasts some seconds
            call = server.stub.GenerateStream(server.request(1900, n=16), timeout=SECONDS,
                                              metadata=[("authorization", f"Bearer {token}")])
            next(call)
            return call

        file.write_text('{"tokens": [')  # half a file: nothing changes
        wait_until(lambda: "the tokens of before stay" in server.log(), "a bad file is not told")
        hers, his = open_stream(alice), open_stream(bob)
        # No signal: the change alone is noticed. Bob gets a limit that he is at already.
        write({**entry_of_bob, "max_concurrent": 1})
        expect_error(lambda: hers, grpc.StatusCode.UNAUTHENTICATED, "authorization: the token was taken back")
        next(his)
        expect_error(lambda: open_stream(bob), grpc.StatusCode.RESOURCE_EXHAUSTED, "bob: 1 answers are open")
        expect_error(lambda: open_stream(alice), grpc.StatusCode.UNAUTHENTICATED, "authorization: the token is not known")
        # Told when all of them are ended, which is after the first one hears of it.
        wait_until(lambda: f"reload: {file}: 1 tokens; 1 answers of revoked ones ended" in server.log(), "the end is not told")
        his.cancel()


@test
def options_are_read_again(f):
    file = f.folder / "options.yaml"
    file.write_text("queue:\n  requests: 1000\nthreads: 2\ndrain_seconds: 7\n")
    with Server(f, "--config", file, "--drain-seconds", "9") as server:
        file.write_text("queue:\n  requests: 1\n  nonsense: 2\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the options of before stay" in server.log(), "a bad file is not told")
        assert f"{file}:3: queue.nonsense: unknown key" in server.log()
        file.write_text("queue:\n  requests: 1\nthreads: 1\ndrain_seconds: 8\nlog_level: debug\n")
        wait_until(lambda: "options changed" in server.log(), "the change is not noticed")
        log = server.log()
        assert "reload: queue.requests: 1 instead of 1000" in log and "log_level: debug instead of info" in log, log
        assert 'threads: "1" instead of "2" needs a restart' in log, log
        assert "drain_seconds:" not in log, "the flag wins over the file, as at the start"
        # The new limit holds: one may wait, the others are sent away.
        prompt = "Once upon a time there was a dog. " * 150
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            calls = [pool.submit(server.stub.Generate, server.request(1, text=f"{n} {prompt}"), timeout=SECONDS) for n in range(24)]
            codes = [future.exception().code() if future.exception() else None for future in calls]
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes and None in codes, codes


@test
def prompt_tokens_that_wait_are_limited(f):
    with Server(f, "--queue-tokens", 300, "--scheduler-max-running", 1) as server:
        prompt = "Once upon a time there was a dog. " * 20  # 160 tokens
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            calls = [pool.submit(server.stub.Generate, server.request(30, text=f"{n} {prompt}"), timeout=SECONDS) for n in range(12)]
            errors = [future.exception() for future in calls if future.exception()]
        assert errors and len(errors) < 12, f"{len(errors)} of 12 were refused"
        for error in errors:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "prompt tokens wait" in error.details() and "(limit 300)" in error.details(), error
            assert any(key == "grpc-retry-pushback-ms" for key, _ in error.trailing_metadata())


@test
def tokens_a_minute_are_limited(f):
    token, entry = f.new_token("alice")
    file = f.folder / "rate.json"
    file.write_text(json.dumps({"tokens": [{**entry, "tokens_per_minute": 60}]}))
    headers = {"Authorization": f"Bearer {token}"}
    metadata = [("authorization", f"Bearer {token}")]
    with Server(f, "--auth-tokens", file) as server:
        server.stub.Generate(server.request(100), timeout=SECONDS, metadata=metadata)  # more than there are: a debt
        error = expect_error(lambda: server.stub.Generate(server.request(1), timeout=SECONDS, metadata=metadata),
                             grpc.StatusCode.RESOURCE_EXHAUSTED, "alice: its tokens of this minute are used up (limit 60 a minute)")
        wait = int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])
        assert 20_000 < wait < 70_000, wait
        connection = http.client.HTTPConnection(server.http, timeout=SECONDS)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "Once", "max_tokens": 1}), headers)
        answer = connection.getresponse()
        assert answer.status == 429 and 20 < int(answer.headers["Retry-After"]) < 70, (answer.status, answer.headers.items())
        assert "used up" in json.loads(answer.read())["error"]["message"]
        connection.request("GET", "/metrics", headers=headers)
        metrics = connection.getresponse().read().decode()
        assert 'sluice_rejected_requests_total{reason="rate_limit"} 2' in metrics and 'reason="queue_full"} 0' in metrics, metrics
        # A higher limit is a file away, and pays the debt faster.
        file.write_text(json.dumps({"tokens": [{**entry, "tokens_per_minute": 600_000}]}))
        wait_until(lambda: f"reload: {file}: 1 tokens" in server.log(), "the change is not noticed")
        time.sleep(0.1)
        assert server.stub.Generate(server.request(1), timeout=SECONDS, metadata=metadata).usage.completion_tokens == 1


@test
def certificates_are_read_again(f):
    first, second = Authority(f.folder / "first"), Authority(f.folder / "second")
    cert, key = f.folder / "cert.pem", f.folder / "key.pem"

    def install(pair):
        for source, target in zip(pair, (cert, key)):
            target.write_bytes(source.read_bytes())

    def shown():
        """The certificate of both doors; nothing while they differ."""
        found = {ssl.get_server_certificate((host, int(port))) for host, port in
                 (address.rsplit(":", 1) for address in (server.address, server.http))}
        return found.pop() if len(found) == 1 else None

    def plain(file):  # as get_server_certificate() writes it
        return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(file.read_text()))

    old, new = first.sign("server"), second.sign("server")
    install(old)
    with Server(f, "--tls-cert", cert, "--tls-key", key) as server:
        assert shown() == plain(old[0])
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(first.ca.read_bytes())) as channel:
            stub = f.pb_grpc.InferenceStub(channel)
            stub.GetModel(f.pb.GetModelRequest(), timeout=SECONDS)
            cert.write_bytes(new[0].read_bytes())  # the key is still the old one
            wait_until(lambda: "the certificates of before stay" in server.log(), "a wrong pair is not told")
            assert "is not the key of the certificate" in server.log()
            assert shown() == plain(old[0])
            install(new)
            wait_until(lambda: shown() == plain(new[0]), "the new certificate is not shown")
            stub.GetModel(f.pb.GetModelRequest(), timeout=SECONDS)  # who is connected stays so
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(second.ca.read_bytes())) as channel:
            f.pb_grpc.InferenceStub(channel).GetModel(f.pb.GetModelRequest(), timeout=SECONDS)


@test
def json_logs_name_requests_and_never_their_text(f):
    secret = "xyzzy plugh"
    with Server(f, "--log-format", "json", "--log-level", "trace") as server:
        server.stub.Generate(server.request(5, text=f"Once {secret}", request_id="id-1"), timeout=SECONDS,
                             metadata=[("traceparent", f"00-{TRACE}-{SPAN}-00")])
        assert server.ask("POST", "/v1/completions", {"model": "demo-moe", "prompt": secret, "max_tokens": 3},
                          {"X-Request-Id": "id-2", "traceparent": f"00-{TRACE}-{SPAN}-01"})[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        lines = [json.loads(line) for line in server.log().splitlines()]
    assert len(lines) > 4 and all({"time", "level", "message"} <= line.keys() for line in lines)
    ended = {line["request_id"]: line for line in lines if line["message"] == "request ended"}
    for name, tokens in (("id-1", 5), ("id-2", 3)):
        line = ended[name]
        assert line["trace_id"] == TRACE and line["parent_span_id"] == SPAN, line
        assert line["completion_tokens"] == tokens and line["finish_reason"] == "length" and line["level"] == "info", line
        assert 0 < line["first_token_seconds"] <= line["total_seconds"], line
    assert secret not in server.log() and "xyzzy" not in server.log()
    failed = subprocess.run([f.binary, "serve", "--log-format", "json", "--model", "/nowhere"], capture_output=True, text=True)
    assert failed.returncode == 1 and json.loads(failed.stderr.splitlines()[-1])["level"] == "error", failed


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """The protocol as its own project publishes it."""

    def __init__(self):
        self.spans, self.resources = [], []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request, context):
        for resource in request.resource_spans:
            self.resources.append({entry.key: entry.value.string_value for entry in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@test
def spans_reach_a_collector(f):
    collector = Collector()
    with Server(f, "--trace-endpoint", collector.address) as server:
        parent = ("traceparent", f"00-{TRACE}-{SPAN}-01")
        server.stub.Generate(server.request(5, request_id="over-grpc"), timeout=SECONDS, metadata=[parent])
        server.stub.Generate(server.request(5, request_id="not-sampled"), timeout=SECONDS,
                             metadata=[("traceparent", f"00-{TRACE}-{SPAN}-00")])
        server.ask("POST", "/v1/completions", {"model": "demo-moe", "prompt": "Once", "max_tokens": 3},
                   {"X-Request-Id": "over-http", "traceparent": parent[1]})
        server.stub.Generate(server.request(5, request_id="a-root"), timeout=SECONDS)

        def requests():
            found = {}
            for span in collector.spans:
                attributes = {entry.key: entry.value for entry in span.attributes}
                if span.name == "request":
                    found[attributes["sluice.request_id"].string_value] = (span, attributes)
            return found

        wait_until(lambda: len(requests()) >= 3, "the spans do not come")
    found = requests()
    assert found.keys() == {"over-grpc", "over-http", "a-root"}, found.keys()
    for name, tokens in (("over-grpc", 5), ("over-http", 3)):
        span, attributes = found[name]
        assert span.trace_id.hex() == TRACE and span.parent_span_id.hex() == SPAN and len(span.span_id) == 8
        assert span.kind == span.SPAN_KIND_SERVER and span.flags & 1
        assert abs(span.end_time_unix_nano / 1e9 - time.time()) < 60 and span.start_time_unix_nano < span.end_time_unix_nano
        assert attributes["gen_ai.usage.output_tokens"].int_value == tokens
        assert attributes["gen_ai.request.model"].string_value == "demo-moe"
        parts = [part for part in collector.spans if part.parent_span_id == span.span_id]
        assert {"prefill", "decode"} <= {part.name for part in parts} <= {"queue", "prefill", "decode"}
        for part in parts:
            assert part.trace_id == span.trace_id
            assert span.start_time_unix_nano <= part.start_time_unix_nano < part.end_time_unix_nano
            # The front end's clock reads a moment later than the loop's.
            assert part.end_time_unix_nano <= span.end_time_unix_nano
    root, _ = found["a-root"]
    assert not root.parent_span_id and len(root.trace_id) == 16 and root.trace_id.hex() != TRACE
    assert collector.resources[0]["service.name"] == "sluice"
    ids = [span.span_id for span in collector.spans]
    assert len(set(ids)) == len(ids)
    collector.server.stop(0)


@test
def the_share_of_traces_is_the_operators(f):
    collector = Collector()
    with Server(f, "--trace-endpoint", collector.address, "--trace-sample-ratio", "0") as server:
        for n in range(20):
            server.stub.Generate(server.request(1, request_id=f"root-{n}"), timeout=SECONDS)
        server.stub.Generate(server.request(1, request_id="asked-for"), timeout=SECONDS, metadata=[("traceparent", f"00-{TRACE}-{SPAN}-01")])
        wait_until(lambda: collector.spans, "the span does not come")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}, "a trace that begins here was taken"
    collector.server.stop(0)


@test
def a_collector_that_is_gone_delays_nobody(f):
    with Server(f, "--trace-endpoint", "127.0.0.1:9") as server:
        for _ in range(20):
            server.stub.Generate(server.request(2), timeout=SECONDS)
        wait_until(lambda: "takes no spans" in server.log(), "nobody is told")
        begin = time.monotonic()
        server.stub.Generate(server.request(2), timeout=SECONDS)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert time.monotonic() - begin < 15
        assert server.log().count("takes no spans") == 1


def main():
    binary = binary_argument(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        build_stubs(folder, "sluice/v1/inference.proto")
        from sluice.v1 import inference_pb2, inference_pb2_grpc
        return run_all(Fixture(binary, folder, inference_pb2, inference_pb2_grpc))


if __name__ == "__main__":
    sys.exit(main())
