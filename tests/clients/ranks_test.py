#!/usr/bin/env python3
"""`--tp`: several ranks say what one says; a rank that is killed costs its clients an error, not the server.

    ranks_test.py PATH_OF_SLUICE
"""
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from binary import json_lines, ranks_of, run_tests, running_server

BINARY = sys.argv[1]
PROMPT = "Once upon a time"
CLIENT = [BINARY, "client", "--prompt", PROMPT, "--temperature", "0", "--json"]


def generated(*flags):
    [answer] = json_lines(BINARY, "generate", "--prompt", PROMPT, "--temperature", "0", "--max-tokens", "24", "--threads", "1", "--json",
                          *flags)
    return answer["token_ids"]


def ranks_say_what_one_says():
    expected = generated()
    assert len(expected) == 24, expected
    assert generated("--tp", "2") == expected
    assert generated("--tp", "2", "--parallel-experts", "whole") == expected


def an_error_before_the_ranks_meet_is_told_once():
    run = subprocess.run([BINARY, "generate", "--prompt", PROMPT, "--tp", "2", "--cache-memory-mib", "9999999"], capture_output=True,
                         text=True, timeout=60)
    assert run.returncode == 1, run.returncode
    assert "RESOURCE_EXHAUSTED" in run.stderr and "signal" not in run.stderr, run.stderr


def ask(address):
    messages = json_lines(*CLIENT, "--target", address, "--max-tokens", "24")
    return "".join(choice.get("text", "") for message in messages for choice in message.get("choices", []))


def kill_while_answering(process, address, rank):
    """Kills a rank in the midst of an answer; what the client said of it, and how long that took."""
    asking = subprocess.Popen([*CLIENT, "--target", address, "--max-tokens", "900", "--ignore-eos"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        assert asking.stdout.readline(), asking.communicate()[1]
    os.kill(ranks_of(process)[rank], signal.SIGKILL)
    killed = time.monotonic()
    _, said = asking.communicate(timeout=60)
    assert asking.returncode != 0, "the answer ended well although a rank was gone"
    return said, time.monotonic() - killed


def a_killed_rank_costs_an_error_and_the_group_comes_back():
    with running_server(BINARY, "--threads", "1") as (_, address, _):
        expected = ask(address)
        assert expected, "an empty answer"
    with running_server(BINARY, "--tp", "2", "--threads", "1") as (process, address, _):
        assert ask(address) == expected
        for rank in [1, 0]:
            former = ranks_of(process)
            said, waited = kill_while_answering(process, address, rank)
            assert waited < 10, f"the client heard after {waited:.1f} s"
            if rank == 1:  # a killed rank 0 can say nothing itself
                assert "rank 0 of 2" in said, said
            words = process.stdout.readline().split()
            assert words and words[0] == "ready", words
            address = dict(word.split("=", 1) for word in words[1:])["grpc"]
            assert not set(former) & set(ranks_of(process)), "a process of the broken group lives"
            assert ask(address) == expected
        ranks = ranks_of(process)
        process.terminate()
        assert process.wait(30) == 0, process.returncode
        assert not [pid for pid in ranks if pathlib.Path(f"/proc/{pid}").exists()], "ranks outlive the server"


def a_rank_that_hangs_is_lost_after_the_timeout():
    with running_server(BINARY, "--tp", "2", "--threads", "1", "--parallel-timeout", "1.5", "--parallel-address", "127.0.0.1") as (process, address, _):
        expected, former = ask(address), ranks_of(process)
        stopped = ranks_of(process)[1]
        os.kill(stopped, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            said = subprocess.run([*CLIENT, "--target", address, "--max-tokens", "24"], capture_output=True, text=True, timeout=60)
            waited = time.monotonic() - begin
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert said.returncode != 0 and "UNAVAILABLE" in said.stderr and waited < 10, f"{said}, after {waited:.1f} s"
        # Awake again it finds the group gone, and makes room for the next one's.
        words = process.stdout.readline().split()
        assert words and words[0] == "ready", words
        assert not set(former) & set(ranks_of(process)), "a process of the broken group lives"
        assert ask(dict(word.split("=", 1) for word in words[1:])["grpc"]) == expected


DOG = {"type": "object", "required": ["name", "age", "colour"], "additionalProperties": False,
       "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 20},
                      "colour": {"enum": ["brown", "black", "white"]}}}
FORMS = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me of a dog."}], "max_tokens": 200, "temperature": 0,
                              "response_format": {"type": "json_schema", "json_schema": {"name": "dog", "strict": True, "schema": DOG}}}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "guided_regex": "[a-c]{3}-\\d{4} is [a-z ]{5,12}"}),
    # Drawn, with all that makes rank 0 ask for whole rows of logits.
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 40, "temperature": 1, "seed": 7, "logprobs": 2,
                         "guided_regex": "[A-Z][a-z]+( [a-z]+){3}\\."}),
]


def formed_answers(*flags):
    # One port over HTTP; both servers keep weights and cache in f32, so that only the order of sums differs.
    with running_server(BINARY, "--http", "127.0.0.1:0", "--threads", "1", "--weights", "f32", *flags, door="http") as (_, address, _):
        def post(path, body):
            request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
            try:
                return json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]
            except urllib.error.HTTPError as error:
                return json.load(error)["error"]

        return [post(path, body) for path, body in FORMS]


def answers_of_a_form_are_those_of_one_rank():
    one, two = formed_answers(), formed_answers("--tp", "2")
    if "grammar" in one[0].get("message", {}) and "built" in one[0]["message"]:
        print(f"        skipped: {one[0]['message']}")
        return
    dog = json.loads(one[0]["message"]["content"])
    assert list(dog) == ["name", "age", "colour"] and dog["colour"] in DOG["properties"]["colour"]["enum"], dog
    assert re.fullmatch(FORMS[1][1]["guided_regex"], one[1]["text"]) and re.fullmatch(FORMS[2][1]["guided_regex"], one[2]["text"]), one
    for alone, shared in zip(one, two):
        for part in "message", "text", "finish_reason":
            assert alone.get(part) == shared.get(part), (alone, shared)
    # Row by row the same logprobs, to what the other order of sums may do to the first digits after 1e-3.
    alone, shared = (answers[2]["logprobs"]["token_logprobs"] for answers in (one, two))
    assert len(alone) == len(shared) > 4 and max(abs(a - b) for a, b in zip(alone, shared)) < 1e-3, (alone, shared)


def perplexity_is_that_of_one_rank():
    """What differs is the order of sums: the output and down projections of each layer and the embedding, each of at most the widest
    inner dimension's terms. A sum of K terms in another order differs by a rounding of 2^-24 a term, of random sign: sqrt(K) * 2^-24 of
    its magnitude; so do 2 L + 1 sums, one behind the other: sqrt((2 L + 1) K) * 2^-24 of the largest logit, which is below 32 here. A
    token's log-likelihood takes it twice, from its logit and from the row's sum. The mean of N tokens has 1 / sqrt(N) of that; four
    standard deviations."""
    model = json.loads((pathlib.Path(__file__).resolve().parents[2] / "configs/demo-moe/config.json").read_text())
    layers = model["num_hidden_layers"]
    widest = max(model["intermediate_size"], model["moe_intermediate_size"] * model["num_experts_per_tok"],
                 model["num_attention_heads"] * model["v_head_dim"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write("Once upon a time, there was a little dog named Tim. Tim had a red ball. One day, Tim lost his ball in the park. " * 4)
        text.flush()
        words = ["perplexity", "--file", text.name, "--weights", "f32", "--threads", "1", "--json"]
        [one] = json_lines(BINARY, *words)
        [two] = json_lines(BINARY, *words, "--tp", "2")
        [whole] = json_lines(BINARY, *words, "--tp", "2", "--parallel-experts", "whole")
    tolerance = 4 * 2 * 32 * math.sqrt((2 * layers + 1) * widest / one["tokens"]) * 2**-24
    for other in two, whole:
        assert other["tokens"] == one["tokens"] > 100, (one, other)
        assert 0 < abs(other["nll"] - one["nll"]) < tolerance, (one, other, tolerance)
        print(f"        nll {one['nll']:.6f}, with 2 ranks {other['nll'] - one['nll']:+.1e} (bound {tolerance:.1e})")


def the_bench_says_where_the_time_of_a_step_goes():
    rows = json_lines(BINARY, "bench", "engine", "--tp", "2", "--threads", "1", "--pp", "64", "--tg", "8", "--repeat", "1", "--json")
    assert [row["test"] for row in rows] == ["pp64", "tg8"], rows
    for row in rows:
        assert row["ranks"] == 2 and row["percent_of_bound"] is None, row
        assert row["rank1"]["communication_ms"] == row["communication_ms"] > 0, row
        for split in row, row["rank1"]:
            assert split["compute_ms"] > 0 and split["wait_ms"] >= 0, row
            whole = split["compute_ms"] + split["communication_ms"] + split["wait_ms"]
            assert abs(whole / row["step_ms"] - 1) < 0.01, row


def ranks_that_do_not_come_are_waited_for_as_long_as_was_said():
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29741"}
    begin = time.monotonic()
    run = subprocess.run([BINARY, "generate", "--prompt", PROMPT, "--tp", "2", "--parallel-start-timeout", "1.5"], env=environment,
                         capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and 1 < time.monotonic() - begin < 15, (run, time.monotonic() - begin)


if __name__ == "__main__":
    sys.exit(run_tests([ranks_say_what_one_says, an_error_before_the_ranks_meet_is_told_once, a_killed_rank_costs_an_error_and_the_group_comes_back,
                        a_rank_that_hangs_is_lost_after_the_timeout, answers_of_a_form_are_those_of_one_rank,
                        perplexity_is_that_of_one_rank, the_bench_says_where_the_time_of_a_step_goes,
                        ranks_that_do_not_come_are_waited_for_as_long_as_was_said]))
