#!/usr/bin/env python3
"""`sluice bench serve` against the bundled model: every kind of workload and loop, and what its rows must hold.

    bench_serve_test.py PATH_OF_SLUICE
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

from binary import json_lines, run_tests, running_server

BINARY = sys.argv[1]
SMALL = ["--requests", "12", "--prompt-tokens", "uniform:70:90", "--output-tokens", "uniform:3:9"]


def bench(*words):
    return json_lines(BINARY, "bench", "serve", "--json", "--log-level", "error", *words)


def check_row(row, requests):
    assert row["requests"] == requests and row["errors"] == 0, row
    for name in ("ttft_ms", "itl_ms", "e2e_ms"):
        assert 0 < row[name]["p50"] <= row[name]["p90"] <= row[name]["p99"], row
    assert row["ttft_ms"]["p50"] < row["e2e_ms"]["p99"]
    assert 0 < row["utilization"] <= 1, row
    assert 0 <= row["goodput"] <= row["requests_per_second"], row
    assert row["output_tokens"] >= 3 * requests


def closed_loop_at_two_levels_with_a_chart():
    with tempfile.TemporaryDirectory() as folder:
        svg = pathlib.Path(folder) / "load.svg"
        rows = bench(*SMALL, "--concurrency", "1,3", "--svg", str(svg))
        assert [row["load"] for row in rows] == ["concurrency 1", "concurrency 3"]
        for row in rows:
            check_row(row, 12)
            assert row["cached_prompt_tokens"] == 0, "levels share nothing"
        xml.etree.ElementTree.parse(svg)
        assert svg.read_text().count("<circle") == 2 * 3 * 2  # levels, percentiles, panels


def open_loop_keeps_its_rate():
    (row,) = bench(*SMALL, "--rate", "20")
    check_row(row, 12)
    # Poisson gaps of this seed; the last request is sent no earlier than its arrival.
    assert row["load"] == "rate 20" and row["seconds"] > 0.2, row


def chat_finds_the_turns_before():
    (row,) = bench(*SMALL, "--workload", "chat", "--turns", "3", "--concurrency", "2")
    check_row(row, 12)
    assert row["cached_prompt_tokens"] >= row["prompt_tokens"] * 0.3, row


def shared_prefixes_are_computed_once():
    (row,) = bench(*SMALL, "--workload", "shared-prefix", "--prefixes", "1", "--prefix-tokens", "640", "--concurrency", "1")
    check_row(row, 12)
    assert row["cached_prompt_tokens"] == 11 * 640, row


def traces_are_replayed_at_their_times():
    with tempfile.TemporaryDirectory() as folder:
        trace = pathlib.Path(folder) / "trace.jsonl"
        trace.write_text("".join(json.dumps({"timestamp": 250 * n, "input_length": 1024, "output_length": 40, "hash_ids": [0, n + 1]}) + "\n"
                                 for n in range(4)))
        (row,) = bench("--workload", f"trace:{trace}", "--scale", "0.25")
        check_row(row, 4)
        assert row["seconds"] >= 0.75 and row["prompt_tokens"] == 4 * 256, row
        assert row["cached_prompt_tokens"] == 3 * 128, row


def refused_requests_are_errors_not_waits():
    with running_server(BINARY, "--queue-requests", "1", "--scheduler-max-running", "1") as (_, address, _):
        (row,) = bench(*SMALL, "--target", address, "--rate", "1000")
        assert row["requests"] == 12 and 0 < row["errors"] < 12, row


def wrong_input_is_named():
    for words, expected in [
        (["--rate", "1", "--concurrency", "1"], "INVALID_ARGUMENT: serve: rate, concurrency: one or the other, an open or a closed loop"),
        (["--target", "127.0.0.1:1"], "UNAVAILABLE: serve: no Sluice server answers at \"127.0.0.1:1\""),
        (["--weights", "int3"], "INVALID_ARGUMENT: serve: --weights: "),
        (["--workload", "trace:x.txt"], "INVALID_ARGUMENT: serve: trace: expected a .jsonl (Mooncake) or .csv (Azure) file, found 'x.txt'"),
    ]:
        done = subprocess.run([BINARY, "bench", "serve", "--log-level", "error", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and expected in done.stderr, (words, done.returncode, done.stderr)


if __name__ == "__main__":
    sys.exit(run_tests([closed_loop_at_two_levels_with_a_chart, open_loop_keeps_its_rate, chat_finds_the_turns_before,
                        shared_prefixes_are_computed_once, traces_are_replayed_at_their_times, refused_requests_are_errors_not_waits,
                        wrong_input_is_named]))
