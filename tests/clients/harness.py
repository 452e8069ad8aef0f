"""What the client tests share: a real server on the bundled model, a list of tests, and the line at the end."""
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback

import grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 60 * int(os.environ.get("SLUICE_TEST_PATIENCE", 1))  # any single call
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def build_stubs(folder, *files):
    """As any user would: protoc on the public files."""
    code = protoc.main(["protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={folder}", f"--grpc_python_out={folder}",
                        *(str(ROOT / "proto" / file) for file in files)])
    assert code == 0, f"protoc ended with {code}"
    sys.path.insert(0, folder)


@contextlib.contextmanager
def running_server(binary, *flags, door="grpc"):
    """Yields (process, "HOST:PORT" of the door) of a server on the bundled model and free ports; `flags` are `sluice serve`'s. Without
    a door, the addresses of both."""
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
            doors = dict(word.split("=", 1) for word in words[1:])
            yield process, doors[door] if door else doors
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()


def wait_until(done, what):
    end = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def expect_error(call, code, start):
    """The call fails with the code, and its message begins so."""
    try:
        result = call()
        if hasattr(result, "__next__"):
            list(result)
    except grpc.RpcError as error:
        assert error.code() == code, f"expected {code}, got {error.code()}: {error.details()}"
        assert error.details().startswith(start), f"expected a message about {start!r}, got {error.details()!r}"
        return error
    raise AssertionError(f"expected {code} about {start!r}, but the call succeeded")


def run_all(fixture):
    """Runs the TESTS with the fixture, prints `N passed, N failed` last; the exit code."""
    failed = 0
    for function in TESTS:
        begin = time.monotonic()
        try:
            function(fixture)
            print(f"passed  {function.__name__} ({time.monotonic() - begin:.2f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


def binary_argument(documentation):
    if len(sys.argv) != 2:
        print(documentation, file=sys.stderr)
        sys.exit(2)
    return sys.argv[1]
