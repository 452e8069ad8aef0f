#!/usr/bin/env python3
"""TLS, client certificates and bearer tokens against the real server; certificates come from the openssl command.

    security_client_test.py PATH_OF_SLUICE
"""
import json
import pathlib
import signal
import ssl
import subprocess
import sys
import tempfile
import time

import grpc
import httpx
import openai
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Authority
from harness import SECONDS, binary_argument, build_stubs, expect_error, run_all, running_server, test, wait_until

UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


class Fixture:
    def __init__(self, binary, folder, pb, pb_grpc):
        self.binary, self.folder, self.pb, self.pb_grpc = binary, pathlib.Path(folder), pb, pb_grpc
        self.folder.mkdir()
        self.authority, self.stranger = Authority(self.folder / "ours"), Authority(self.folder / "theirs")
        self.cert, self.key = self.authority.sign("server")
        self.client = self.authority.sign("client")

    def tls_flags(self):
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def new_token(self, *flags):
        """A token of `sluice token`, and its entry for the file."""
        made = subprocess.run([self.binary, "token", *flags], check=True, capture_output=True, text=True)
        return made.stdout.strip(), json.loads(made.stderr.splitlines()[-1])

    def write_tokens(self, *entries):
        file = self.folder / "tokens.json"
        file.write_text(json.dumps({"tokens": entries}))
        return file

    def credentials(self, ca=None, pair=None):
        cert, key = (file.read_bytes() for file in pair) if pair else (None, None)
        return grpc.ssl_channel_credentials((ca or self.authority.ca).read_bytes(), key, cert)

    def call(self, channel, token=None, timeout=SECONDS):
        stub = self.pb_grpc.InferenceStub(channel)
        metadata = [("authorization", f"Bearer {token}")] if token else None
        return stub.GetModel(self.pb.GetModelRequest(), timeout=timeout, metadata=metadata)

    def serve_fails(self, *flags):
        listen = [] if "--grpc" in flags else ["--grpc", "127.0.0.1:0"]
        listen += [] if "--http" in flags else ["--http", "off"]
        ended = subprocess.run([self.binary, "serve", *listen, *map(str, flags)], capture_output=True, text=True,
                               timeout=SECONDS)
        assert ended.returncode != 0 and not ended.stdout, (flags, ended)
        return ended.stderr


@test
def tls_serves_those_who_know_the_authority(f):
    with running_server(f.binary, *f.tls_flags()) as (_, address):
        with grpc.secure_channel(address, f.credentials()) as channel:
            assert f.call(channel).name == "demo-moe"
        with grpc.secure_channel(address, f.credentials(ca=f.stranger.ca)) as channel:
            expect_error(lambda: f.call(channel), UNAVAILABLE, "")
        with grpc.insecure_channel(address) as channel:
            expect_error(lambda: f.call(channel, timeout=5), UNAVAILABLE, "")
        info = subprocess.run([f.binary, "client", "--target", address, "--ca", str(f.authority.ca), "--info"],
                              capture_output=True, text=True, timeout=SECONDS)
        assert info.returncode == 0 and "demo-moe" in info.stdout, info


@test
def mutual_tls_wants_a_certificate_of_the_authority(f):
    with running_server(f.binary, *f.tls_flags(), "--tls-client-ca", str(f.authority.ca)) as (_, address):
        with grpc.secure_channel(address, f.credentials(pair=f.client)) as channel:
            assert f.call(channel).name == "demo-moe"
        with grpc.secure_channel(address, f.credentials()) as channel:
            expect_error(lambda: f.call(channel), UNAVAILABLE, "")
        with grpc.secure_channel(address, f.credentials(pair=f.stranger.sign("client"))) as channel:
            expect_error(lambda: f.call(channel), UNAVAILABLE, "")


@test
def tokens_are_asked_for_and_read_again_at_sighup(f):
    one, entry_of_one = f.new_token("--name", "alice", "--tenant", "acme", "--max-concurrent", "4")
    two, entry_of_two = f.new_token("--name", "bob")
    assert entry_of_one["tenant"] == "acme" and one not in json.dumps(entry_of_one) and one != two
    file = f.write_tokens(entry_of_one)
    with running_server(f.binary, *f.tls_flags(), "--auth-tokens", str(file)) as (process, address):
        with grpc.secure_channel(address, f.credentials()) as channel:
            assert f.call(channel, one).name == "demo-moe"
            expect_error(lambda: f.call(channel), UNAUTHENTICATED, "authorization: expected")
            expect_error(lambda: f.call(channel, two), UNAUTHENTICATED, "authorization: the token is not known")
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
            assert health.status == health_pb2.HealthCheckResponse.SERVING, "probes have no token"

            def works(token):
                try:
                    return bool(f.call(channel, token))
                except grpc.RpcError as error:
                    assert error.code() == UNAUTHENTICATED
                    return False

            f.write_tokens(entry_of_two)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: works(two), "the new token is not read")
            assert not works(one), "the old token still opens"
            file.write_text("{")
            process.send_signal(signal.SIGHUP)
            f.call(channel, two)  # a bad file changes nothing, and the server goes on
            assert process.poll() is None
        token_file = f.folder / "token"
        token_file.write_text(two + "\n")
        command = [f.binary, "client", "--target", address, "--ca", str(f.authority.ca), "--prompt", "Once", "--max-tokens", "5"]
        spoken = subprocess.run([*command, "--token-file", str(token_file)], capture_output=True, text=True, timeout=SECONDS)
        assert spoken.returncode == 0 and spoken.stdout.strip(), spoken
        silent = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        assert silent.returncode != 0 and "UNAUTHENTICATED" in silent.stderr, silent


@test
def nothing_is_exposed_by_mistake(f):
    _, entry = f.new_token("--name", "alice")
    tokens = ["--auth-tokens", f.write_tokens(entry)]
    outside = ["--grpc", "0.0.0.0:0"]
    neither = f.serve_fails(*outside)
    assert 'grpc: "0.0.0.0:0" is reachable from other machines, but there is neither TLS' in neither, neither
    assert "clients need neither a token nor a certificate" in f.serve_fails(*outside, *f.tls_flags())
    assert "there is no TLS" in f.serve_fails(*outside, *tokens)
    assert 'http: "0.0.0.0:0" is reachable from other machines' in f.serve_fails("--http", "0.0.0.0:0")
    assert "http:" in f.serve_fails("--http", "0.0.0.0:0", *tokens)
    for flags in ([*f.tls_flags(), *map(str, tokens)], [*f.tls_flags(), "--tls-client-ca", str(f.authority.ca)], ["--insecure"]):
        with running_server(f.binary, *outside, "--http", "0.0.0.0:0", *flags) as (_, address):
            assert address.startswith("0.0.0.0:")


@test
def bad_files_are_named_before_anything_is_served(f):
    cert, key = f.tls_flags()[1], f.tls_flags()[3]
    assert "tls.key: must be given with tls.cert" in f.serve_fails("--tls-cert", cert)
    assert "tls.cert: must be given" in f.serve_fails("--tls-key", key)
    assert "tls.cert: must be given" in f.serve_fails("--tls-client-ca", f.authority.ca)
    assert f"tls.cert: {f.folder}/no.pem cannot be read" in f.serve_fails("--tls-cert", f.folder / "no.pem", "--tls-key", key)
    assert "expected a certificate in PEM form" in f.serve_fails("--tls-cert", key, "--tls-key", key)
    assert "expected a private key in PEM form" in f.serve_fails("--tls-cert", cert, "--tls-key", cert)
    assert "is not the key of the certificate" in f.serve_fails("--tls-cert", cert, "--tls-key", f.client[1])
    assert "tls.client_ca:" in f.serve_fails("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key)
    assert "cannot be read" in f.serve_fails("--auth-tokens", f.folder / "none.json")
    bad = f.folder / "bad.json"
    bad.write_text('{"tokens": [{"name": "a", "sha256": "not-a-hash"}]}')
    error = f.serve_fails("--auth-tokens", bad)
    assert "sha256: expected the SHA-256 of a token" in error and "not-a-hash" not in error, error


def openai_client(address, key="none", verify=True, scheme="https"):
    return openai.OpenAI(base_url=f"{scheme}://{address}/v1", api_key=key, timeout=SECONDS, max_retries=0,
                         http_client=httpx.Client(verify=verify, timeout=SECONDS))


def expect_refused(call, error):
    try:
        call()
    except error as found:
        return found
    raise AssertionError(f"expected {error}, but the call succeeded")


def complete(client, **fields):
    return client.completions.create(model="demo-moe", prompt="Once upon a time", **{"max_tokens": 8, **fields})


@test
def https_with_tokens_like_grpc(f):
    token, entry = f.new_token("--name", "alice", "--max-concurrent", "1")
    flags = [*f.tls_flags(), "--auth-tokens", str(f.write_tokens(entry)), "--http", "127.0.0.1:0"]
    known = ssl.create_default_context(cafile=str(f.authority.ca))
    with running_server(f.binary, *flags, door="http") as (_, address):
        client = openai_client(address, token, known)
        assert complete(client).usage.completion_tokens > 0
        assert "".join(chunk.choices[0].text for chunk in complete(client, stream=True))
        refused = expect_refused(lambda: complete(openai_client(address, "wrong", known)), openai.AuthenticationError)
        assert refused.status_code == 401 and "the token is not known" in refused.message, refused
        expect_refused(lambda: complete(openai_client(address, token)), openai.APIConnectionError)  # an unknown authority
        expect_refused(lambda: complete(openai_client(address, token, scheme="http")), openai.APIConnectionError)
        with complete(client, stream=True, max_tokens=1500, extra_body={"ignore_eos": True}) as running:
            next(iter(running))
            busy = expect_refused(lambda: complete(client), openai.RateLimitError)
            assert busy.status_code == 429 and int(busy.response.headers["retry-after"]) >= 1, busy
        for _ in range(100):  # the stream above is given up; its place is free soon
            try:
                complete(client)
                break
            except openai.RateLimitError:
                time.sleep(0.05)
        else:
            raise AssertionError("a closed stream keeps its place")
        assert httpx.get(f"https://{address}/health", verify=known).text == "ok\n"


@test
def https_with_client_certificates(f):
    flags = [*f.tls_flags(), "--tls-client-ca", str(f.authority.ca), "--http", "127.0.0.1:0"]
    with running_server(f.binary, *flags, door="http") as (_, address):
        def trusting(pair=None):
            context = ssl.create_default_context(cafile=str(f.authority.ca))
            if pair:
                context.load_cert_chain(*map(str, pair))
            return context

        with openai_client(address, verify=trusting(f.client)) as client:
            assert complete(client).usage.completion_tokens > 0
        for _ in range(3):  # sessions are resumed, or not: either way the client is let in
            with openai_client(address, verify=trusting(f.client)) as client:
                assert client.models.list().data[0].id == "demo-moe"
        for pair in (None, f.stranger.sign("client")):
            with openai_client(address, verify=trusting(pair)) as client:
                expect_refused(lambda: complete(client), openai.APIConnectionError)


def main():
    binary = binary_argument(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        build_stubs(folder, "sluice/v1/inference.proto")
        from sluice.v1 import inference_pb2, inference_pb2_grpc
        return run_all(Fixture(binary, pathlib.Path(folder) / "security", inference_pb2, inference_pb2_grpc))


if __name__ == "__main__":
    sys.exit(main())
