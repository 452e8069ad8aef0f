#!/usr/bin/env python3
"""`--tp`: several ranks say what one says; a rank that is killed costs its clients an error, not the server.

    ranks_test.py PATH_OF_SLUICE
"""
import os
import pathlib
import signal
import subprocess
import sys
import time

from binary import json_lines, run_tests, running_server

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


def ranks_of(process):
    """The process ids of rank 0, 1, ..."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    rank = lambda pid: int(dict(word.split("=", 1) for word in
                                pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word)["RANK"])
    return sorted(map(int, children), key=rank)


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
        ask(address)
        stopped = ranks_of(process)[1]
        os.kill(stopped, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            said = subprocess.run([*CLIENT, "--target", address, "--max-tokens", "24"], capture_output=True, text=True, timeout=60)
            waited = time.monotonic() - begin
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert said.returncode != 0 and waited < 10, f"{said}, after {waited:.1f} s"


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
                        a_rank_that_hangs_is_lost_after_the_timeout, the_bench_says_where_the_time_of_a_step_goes,
                        ranks_that_do_not_come_are_waited_for_as_long_as_was_said]))
