#!/usr/bin/env python3
"""OpenAI's own Python client, and sockets that misbehave, against the real server's HTTP door.

    http_client_test.py PATH_OF_SLUICE

Prints one line per test and `N passed, N failed` last; exits with 1 if anything failed. Needs requirements.txt.
"""
import json
import os
import random
import re
import resource
import selectors
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

import jsonschema
import openai

from harness import SECONDS, binary_argument, run_all, running_server, test, wait_until

LONG = dict(max_tokens=1500, ignore_eos=True)
STREAMS = 1000  # at once, in many_streams_at_once
CONNECTIONS = 1000  # opened and dropped, in connections_dropped_anywhere


class Fixture:
    def __init__(self, process, address):
        self.process, self.address = process, address
        host, port = address.rsplit(":", 1)
        self.endpoint = (host, int(port))
        self.client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", timeout=SECONDS, max_retries=0)
        self.model = self.client.models.list().data[0].id

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=SECONDS) as answer:
            return answer.read().decode()

    def metric(self, sample):
        for line in self.get("/metrics").splitlines():
            if line.startswith(sample + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no sample {sample}")

    def complete(self, prompt="Once upon a time", **fields):
        return self.client.completions.create(model=self.model, prompt=prompt, **{"max_tokens": 24, "temperature": 0, **fields})

    def chat(self, words="Tell me a story about a dog.", **fields):
        return self.client.chat.completions.create(model=self.model, messages=[{"role": "user", "content": words}],
                                                   **{"max_tokens": 30, "temperature": 0, **fields})

    def socket(self):
        return socket.create_connection(self.endpoint, timeout=SECONDS)

    def expect_work_stops(self, before):
        """One LONG answer was given up: the server becomes idle, and most of its tokens are never computed."""
        wait_until(lambda: self.metric("sluice_running_sequences") == 0 and self.metric("sluice_waiting_requests") == 0,
                        "the server still computes what nobody wants")
        generated = self.metric("sluice_generated_tokens_total") - before
        assert generated < LONG["max_tokens"] * 2 // 3, f"{generated} tokens were computed for nobody"


def post(body, path="/v1/completions", headers=""):
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


def is_ready(f):
    try:
        return f.get("/ready") == "ready\n"
    except urllib.error.HTTPError as error:
        assert error.code == 503, error
    except OSError:
        pass
    return False


def resident_bytes(process):
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@test
def chats_whole_and_streamed(f):
    whole = f.chat()
    assert whole.choices[0].message.role == "assistant" and len(whole.choices[0].message.content) > 20, whole
    assert whole.choices[0].finish_reason in ("stop", "length") and whole.usage.completion_tokens > 0, whole
    chunks = list(f.chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 3, "the answer came in one piece"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0, "the same prompt twice was computed twice"
    assert {c.id for c in chunks} == {chunks[0].id}


@test
def completes_with_logprobs_and_echo(f):
    answer = f.complete(logprobs=2, echo=True)
    choice, logprobs = answer.choices[0], answer.choices[0].logprobs
    assert choice.text.startswith("Once upon a time")
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == answer.usage.total_tokens
    assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert len(logprobs.top_logprobs[-1]) >= 2
    # As evaluation harnesses score a text: nothing generated, the prompt's values the same.
    scored = f.complete(prompt=choice.text, logprobs=1, echo=True, max_tokens=0)
    assert scored.choices[0].text == choice.text and scored.usage.completion_tokens == 0
    by_chat = f.chat(logprobs=True, top_logprobs=3).choices[0]
    assert b"".join(bytes(e.bytes) for e in by_chat.logprobs.content).decode().strip().startswith(by_chat.message.content[:10])
    assert all(len(entry.top_logprobs) == 3 for entry in by_chat.logprobs.content)


@test
def seeds_choices_and_stops(f):
    def texts(seed):
        return [choice.text for choice in f.complete(n=3, temperature=1, seed=seed).choices]

    assert texts(5) == texts(5) and len(set(texts(5))) > 1 and texts(5) != texts(6)
    free = f.complete().choices[0].text
    stopped = f.complete(stop=[free[10:16]]).choices[0]
    assert stopped.text == free[:free.index(free[10:16])] and stopped.finish_reason == "stop"
    streamed = "".join(c.choices[0].text for c in f.complete(stop=free[10:16], stream=True))
    assert streamed == stopped.text


@test
def errors_have_their_class_and_field(f):
    def expect(kind, status, param, call):
        try:
            call()
        except kind as error:
            assert error.status_code == status and error.param == param, (error.status_code, error.param, error.message)
            return error
        raise AssertionError(f"expected {kind.__name__} about {param}")

    expect(openai.BadRequestError, 400, "temperature", lambda: f.chat(temperature=-1))
    expect(openai.BadRequestError, 400, "messages[0].role", lambda: f.client.chat.completions.create(
        model=f.model, messages=[{"role": "robot", "content": "x"}]))
    expect(openai.BadRequestError, 400, "max_tokenz", lambda: f.chat(extra_body={"max_tokenz": 3}))
    expect(openai.BadRequestError, 400, "tools", lambda: f.chat(tools=[{"type": "function", "function": {"name": "f"}}]))
    # What only the grammar's compiler knows comes as late as it must, but with the same class and field.
    bad = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "strin"}}}
    expect(openai.BadRequestError, 400, "response_format", lambda: f.chat(response_format=bad))
    expect(openai.BadRequestError, 400, "response_format", lambda: f.chat(response_format=bad, stream=True))
    expect(openai.BadRequestError, 400, "guided_regex", lambda: f.complete(extra_body={"guided_regex": "(a"}))
    expect(openai.BadRequestError, 400, "guided_grammar", lambda: f.complete(extra_body={"guided_grammar": "root ::= foo"}))
    expect(openai.BadRequestError, 400, "prompt", lambda: f.complete(prompt="dog " * 5000))
    expect(openai.BadRequestError, 400, "stop[0]", lambda: f.complete(stop=[""], stream=True))
    error = expect(openai.NotFoundError, 404, "model", lambda: f.client.completions.create(model="other", prompt="x"))
    assert error.code == "model_not_found"
    assert f.complete().choices[0].text


DOG = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 20},
        "kind": {"enum": ["terrier", "poodle", "mongrel"]},
        "friends": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
        "good": {"type": "boolean"}},
    "required": ["name", "age", "kind", "friends", "good"],
    "additionalProperties": False}


def is_dog(text):
    jsonschema.validate(json.loads(text), DOG)
    return True


@test
def a_json_schema_holds_whatever_is_drawn(f):
    form = {"type": "json_schema", "json_schema": {"name": "dog", "strict": True, "schema": DOG}}
    whole = f.chat(response_format=form, max_tokens=200)
    assert whole.choices[0].finish_reason == "stop" and is_dog(whole.choices[0].message.content), whole
    # Hot, with several choices, penalties and logprobs: the same seed gives the same answers, others differ.
    def hot(seed):
        return f.chat(response_format=form, max_tokens=200, temperature=1.5, seed=seed, n=4, frequency_penalty=1, logprobs=True, top_logprobs=2)

    first, again, other = hot(1), hot(1), hot(2)
    texts = [[choice.message.content for choice in answer.choices] for answer in (first, again, other)]
    assert texts[0] == texts[1] != texts[2] and len(set(texts[0])) > 1, texts
    assert all(is_dog(text) for answer in texts for text in answer)
    for choice in first.choices:
        assert b"".join(bytes(e.bytes) for e in choice.logprobs.content).decode().startswith(choice.message.content)
    streamed = list(f.chat(response_format=form, max_tokens=200, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole.choices[0].message.content
    # Cut short it is the beginning of the same; a stop string ends it; min_tokens and ignore_eos do not make it go on.
    cut = f.chat(response_format=form, max_tokens=5)
    assert cut.choices[0].finish_reason == "length" and whole.choices[0].message.content.startswith(cut.choices[0].message.content)
    stopped = f.chat(response_format=form, max_tokens=200, stop=["age"]).choices[0]
    assert stopped.message.content == whole.choices[0].message.content.split("age")[0] and stopped.finish_reason == "stop"
    more = f.chat(response_format=form, max_tokens=250, extra_body={"ignore_eos": True, "min_tokens": 240})
    assert more.choices[0].finish_reason == "stop" and is_dog(more.choices[0].message.content)


@test
def other_forms(f):
    def text(**fields):
        choice = f.complete(max_tokens=60, temperature=1, seed=3, **fields).choices[0]
        assert choice.finish_reason == "stop", choice
        return choice.text

    assert re.fullmatch(r"[a-c]{3}-\d{4}", text(extra_body={"guided_regex": r"[a-c]{3}-\d{4}"}))
    assert text(extra_body={"guided_choice": ["a red fox", "a blue whale"]}) in ("a red fox", "a blue whale")
    words = text(extra_body={"structured_outputs": {"grammar": 'root ::= word (", " word){1,3}\nword ::= "run" | "jump" | "sleep"'}})
    assert all(word in ("run", "jump", "sleep") for word in words.split(", ")), words
    # Any object may be longer than any limit: its end comes at once if the model is told to like it.
    request = urllib.request.Request(f"http://{f.address}/tokenize", json.dumps({"prompt": "}", "add_special_tokens": False}).encode())
    brace = json.load(urllib.request.urlopen(request, timeout=SECONDS))["tokens"][-1]
    free = f.complete(logit_bias={str(brace): 100}, extra_body={"response_format": {"type": "json_object"}}).choices[0]
    assert free.finish_reason == "stop" and isinstance(json.loads(free.text), dict), free
    assert f.complete(extra_body={"response_format": {"type": "text"}}).choices[0].text == f.complete().choices[0].text
    # Side by side with answers of any form, each as it would be alone.
    alone = text(extra_body={"guided_regex": "[a-z ]{20,30}"}), f.complete(max_tokens=40).choices[0].text
    together = [None] * 8

    def ask(i):
        together[i] = text(extra_body={"guided_regex": "[a-z ]{20,30}"}) if i % 2 else f.complete(max_tokens=40).choices[0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [alone[1], alone[0]] * 4, together


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}]


@test
def tools_need_a_vocabulary_with_their_tags(f):
    layout = {"chat_template_kwargs": {"chat_format": "deepseek-v3.1"}}
    for choice in ("auto", "required", {"type": "function", "function": {"name": "weather"}}):
        try:
            f.chat(tools=TOOLS, tool_choice=choice, max_tokens=8, extra_body=layout)
            raise AssertionError(f"{choice}: the bundled vocabulary has no tags of calls")
        except openai.BadRequestError as error:
            assert "tool▁calls▁begin" in str(error), error


@test
def a_closed_stream_stops_the_work(f):
    before = f.metric("sluice_generated_tokens_total")
    stream = f.complete(stream=True, max_tokens=LONG["max_tokens"], extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    f.expect_work_stops(before)
    before = f.metric("sluice_generated_tokens_total")
    with f.socket() as client:
        client.sendall(post({"prompt": "hi", **LONG}))
        wait_until(lambda: f.metric("sluice_running_sequences") > 0, "it never ran")
    f.expect_work_stops(before)


@test
def tokens_and_model(f):
    def ask(path, body):
        request = urllib.request.Request(f"http://{f.address}{path}", json.dumps(body).encode())
        return json.load(urllib.request.urlopen(request, timeout=SECONDS))

    tokens = ask("/tokenize", {"prompt": "Once upon a time", "add_special_tokens": False})
    assert tokens["count"] == len(tokens["tokens"]) > 2 and tokens["max_model_len"] == 2048
    assert ask("/detokenize", {"tokens": tokens["tokens"]})["prompt"] == "Once upon a time"
    assert f.complete(prompt=tokens["tokens"]).choices[0].text
    assert f.client.models.retrieve(f.model).id == f.model
    assert f.get("/health") == "ok\n" and f.get("/ready") == "ready\n"


@test
def metrics_follow_the_work(f):
    names = ["sluice_generated_tokens_total", "sluice_request_seconds_count", "sluice_time_to_first_token_seconds_count",
             "sluice_steps_total", 'sluice_step_seconds_total{part="forward"}',
             f'vllm:generation_tokens_total{{model_name="{f.model}"}}', 'sluice_finished_choices_total{reason="length"}']

    def settled():
        """The loop reports behind a step, when its answers have been sent: what stood still for some idle rounds is the last word."""
        before, found, end = None, {}, time.monotonic() + SECONDS
        while before != found or f.metric("sluice_running_sequences"):
            assert time.monotonic() < end, f"the metrics do not settle: {before}, {found}"
            time.sleep(0.3)
            before, found = found, {name: f.metric(name) for name in names}
        return found

    before = settled()
    f.complete(max_tokens=10, extra_body={"ignore_eos": True})
    after = settled()
    assert all(after[name] > before[name] for name in names), (before, after)
    assert after[names[0]] - before[names[0]] == 10
    assert after[names[0]] == after[names[5]]
    experts = [line for line in f.get("/metrics").splitlines() if line.startswith("sluice_expert_rows_total{")]
    assert len(experts) == 5 * 16 and sum(float(line.split()[-1]) for line in experts) > 0, len(experts)


@test
def garbage_is_answered_or_dropped(f):
    random.seed(1)
    huge = b"GET /health HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (i, b"y" * 100) for i in range(1000))
    for data in [os.urandom(2000), b"\r\n" * 100, b"GET\r\n\r\n", huge, b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                 b"\x16\x03\x01" + os.urandom(300), post({})[:-1] + b"\xff", b"\0" * 5000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]:
        with f.socket() as client:
            client.sendall(data)
            client.settimeout(1)
            try:
                answer = client.recv(4096)
            except (TimeoutError, ConnectionResetError):
                continue
            assert not answer or answer.startswith(b"HTTP/1.1 4"), (data[:40], answer[:80])
    # A valid request with some bytes changed: whatever it means now, the server lives.
    good = post({"prompt": "Once", "max_tokens": 2})
    for _ in range(200):
        data = bytearray(good)
        for _ in range(random.randint(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        with f.socket() as client:
            client.sendall(bytes(data))
            client.shutdown(socket.SHUT_WR)
            while True:
                try:
                    if not client.recv(65536):
                        break
                except ConnectionResetError:
                    break
    assert f.complete().choices[0].text


@test
def connections_dropped_anywhere(f):
    random.seed(2)
    requests = [post({"prompt": "Once", "stream": stream, **LONG}) for stream in (True, False)] + [post({"messages": []}),
                b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    f.complete()
    before = resident_bytes(f.process)
    for _ in range(CONNECTIONS):
        data = random.choice(requests)
        with f.socket() as client:
            client.sendall(data[:random.randint(0, len(data))])
            if random.random() < 0.5:  # a reset instead of an end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: f.metric("sluice_open_answers") == 0, "answers of nobody are open")
    grown = resident_bytes(f.process) - before
    assert grown < 64 << 20, f"{grown >> 20} MiB more than before"
    assert f.complete().choices[0].text


@test
def many_streams_at_once(f):
    """STREAMS clients at the same time in one thread: each gets its whole answer, and nobody waits for ever."""
    request = post({"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "stream": True, "ignore_eos": True,
                    "stream_options": {"include_usage": True}}, headers="Connection: close\r\n")
    begin = time.monotonic()
    selector = selectors.DefaultSelector()
    answers, first = {}, {}
    for number in range(STREAMS):
        client = f.socket()
        client.sendall(request)
        client.setblocking(False)
        answers[number] = b""
        selector.register(client, selectors.EVENT_READ, number)
    while selector.get_map():
        ready = selector.select(SECONDS)
        assert ready, f"{len(selector.get_map())} streams stand still"
        for key, _ in ready:
            data = key.fileobj.recv(65536)
            if data:
                first.setdefault(key.data, time.monotonic() - begin)
                answers[key.data] += data
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    elapsed = time.monotonic() - begin
    for answer in answers.values():
        assert answer.startswith(b"HTTP/1.1 200") and b'"completion_tokens":8' in answer and b"data: [DONE]" in answer, answer[-300:]
    waits = sorted(first.values())
    print(f"        {STREAMS} streams in {elapsed:.1f} s, first byte p99 {waits[STREAMS * 99 // 100]:.1f} s, "
          f"{resident_bytes(f.process) >> 20} MiB resident")
    assert elapsed < SECONDS


@test
def the_page_is_one_file(f):
    page = f.get("/")
    assert page.startswith("<!doctype html>") and "</html>" in page
    assert "http://" not in page and "https://" not in page and "src=" not in page, "the page loads something"


@test
def sigterm_lets_streams_end(f):  # the last one: nothing is served after it
    stream = f.complete(stream=True, max_tokens=200, extra_body={"ignore_eos": True},
                        stream_options={"include_usage": True})
    next(iter(stream))
    f.process.send_signal(signal.SIGTERM)
    chunks = []
    reader = threading.Thread(target=lambda: chunks.extend(stream))
    reader.start()
    # /ready says no while it drains; if that is quick, the port is closed already.
    wait_until(lambda: not is_ready(f), "still ready after SIGTERM")
    reader.join()
    assert chunks[-1].usage.completion_tokens == 200, chunks[-1]
    assert f.process.wait(SECONDS) == 0


def main():
    binary = binary_argument(__doc__)
    with running_server(binary, "--http", "127.0.0.1:0", door="http") as (process, address):
        return run_all(Fixture(process, address))


if __name__ == "__main__":
    sys.exit(main())
