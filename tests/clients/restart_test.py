#!/usr/bin/env python3
"""kill -9 under load, then a new server on the same disk tier: hot prompts are found again, nothing corrupt is used.

    restart_test.py PATH_OF_SLUICE
"""
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from binary import json_lines, run_tests, running_server

BINARY = sys.argv[1]
# About 500 tokens each, so several pages of 64.
HOT = [f"Story number {n}. " + f"Once upon a time there was a little dog named Tim who had {n} red balls. " * 20 for n in range(3)]


def ask(address, prompt):
    """(text, tokens of the prompt, how many of them the cache held)"""
    messages = json_lines(BINARY, "client", "--target", address, "--prompt", prompt, "--temperature", "0", "--max-tokens", "20", "--json")
    text = "".join(choice.get("text", "") for message in messages for choice in message.get("choices", []))
    usage = messages[-1]["usage"]
    return text, usage["prompt_tokens"], usage.get("cached_prompt_tokens", 0)


def server_on(folder, *flags):
    return running_server(BINARY, "--cache-disk", str(folder), "--cache-host-mib", "64", "--cache-memory-mib", "16", *flags)


def put_load_on(address):
    return subprocess.Popen([BINARY, "bench", "serve", "--target", address, "--concurrency", "4", "--requests", "400", "--json"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def kill_under_load(folder):
    """Asks every hot prompt twice, puts a load on the server, kills it in the midst. Returns the answers."""
    with server_on(folder) as (process, address, _):
        answers = [ask(address, prompt)[0] for prompt in HOT]
        assert [ask(address, prompt)[0] for prompt in HOT] == answers
        load = put_load_on(address)
        time.sleep(2)
        assert load.poll() is None, "the load ended before the kill"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        load.communicate(timeout=60)  # its calls fail, and it ends
    return answers


def records(folder):
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file() and path.stat().st_size > 4096)


def hot_prompts_are_found_again():
    with tempfile.TemporaryDirectory() as folder:
        answers = kill_under_load(folder)
        assert records(folder), "nothing was saved before the kill"
        with server_on(folder) as (_, address, _):
            for prompt, expected in zip(HOT, answers):
                text, tokens, cached = ask(address, prompt)
                assert text == expected, f"{text!r} is not {expected!r}"
                assert cached > tokens // 2, f"{cached} of {tokens} prompt tokens were found"


def the_folder_keeps_to_its_size():
    prompts = [f"Tale number {n}. " + f"Once upon a time there was a little cat named Kim who had {n} blue hats. " * 20 for n in range(12)]
    sizes = {}
    for mib in (1, 64):
        with tempfile.TemporaryDirectory() as folder:
            with server_on(folder, "--cache-disk-mib", str(mib)) as (process, address, _):
                for prompt in prompts + prompts:
                    ask(address, prompt)
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            sizes[mib] = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
    assert 0 < sizes[1] <= 1 << 20 < sizes[64], sizes


def flip_bits(content):
    for offset in range(600, len(content), 1024):  # in every page
        content[offset] ^= 0x10
    return content


def tear(content):
    return content[:len(content) // 2]


def replace(content):
    return b"no record of this cache " * (len(content) // 24)


def nothing_corrupt_is_used():
    with tempfile.TemporaryDirectory() as folder:
        answers = kill_under_load(pathlib.Path(folder) / "tier")
        for damage, may_find in [(flip_bits, False), (replace, False), (tear, True)]:
            broken = pathlib.Path(folder) / damage.__name__
            shutil.copytree(pathlib.Path(folder) / "tier", broken)
            for path in records(broken):
                path.write_bytes(damage(bytearray(path.read_bytes())))
            with server_on(broken) as (_, address, log):
                for prompt, expected in zip(HOT, answers):
                    text, _, cached = ask(address, prompt)
                    assert text == expected, f"{damage.__name__}: {text!r} is not {expected!r}"
                    assert may_find or cached == 0, f"{damage.__name__}: {cached} tokens came from broken records"
                log.seek(0)
                lines = log.read()
                assert "skip" in lines or "cut" in lines, f"{damage.__name__}: the log says nothing of it:\n{lines}"


if __name__ == "__main__":
    sys.exit(run_tests([hot_prompts_are_found_again, the_folder_keeps_to_its_size, nothing_corrupt_is_used]))
