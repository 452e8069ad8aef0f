"""The real binary as its tests see it: a server on a free port, and `sluice` commands that print JSON. Standard library only."""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

SECONDS = 120 * int(os.environ.get("SLUICE_TEST_PATIENCE", 1))  # any single command


@contextlib.contextmanager
def running_server(binary, *flags, door="grpc"):
    """Yields (process, "HOST:PORT", log file) of a server on the bundled model and, unless the flags name one, a free
    port."""
    listen = [] if "--grpc" in flags else ["--grpc", "127.0.0.1:0"]
    listen += [] if "--http" in flags else ["--http", "off"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([binary, "serve", *listen, *flags], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            words = process.stdout.readline().split()
            if not words or words[0] != "ready":
                process.wait(10)
                log.seek(0)
                raise RuntimeError(f"the server did not get ready: {words}\n{log.read()}")
            yield process, dict(word.split("=", 1) for word in words[1:])[door], log
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(SECONDS)
            process.stdout.close()


def json_lines(binary, *words):
    """Runs a command and returns the objects that it printed."""
    done = subprocess.run([binary, *words], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def ranks_of(process):
    """The process ids of rank 0, 1, ... of a command that started its ranks itself."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    rank = lambda pid: int(dict(word.split("=", 1) for word in
                                pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word)["RANK"])
    return sorted(map(int, children), key=rank)


def run_tests(tests):
    """Prints one line per test and `N passed, N failed` last; returns the exit code."""
    failed = 0
    for test in tests:
        try:
            test()
            print(f"ok      {test.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {test.__name__}")
            traceback.print_exc(file=sys.stdout)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0
