#!/usr/bin/env python3
"""The built-in page in headless Chromium, driven over its debugging pipe: a chat, the panel, no complaint in the console.

    page_test.py PATH_OF_SLUICE [FOLDER]

Leaves light.png, dark.png and narrow.png in FOLDER if one is given. Needs Debian's chromium; Python's own library otherwise.
"""
import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from harness import SECONDS, running_server


class Page:
    """One page of a browser; messages are JSON with a zero byte behind, on descriptors 3 and 4."""

    def __init__(self, process, to_browser, from_browser):
        self.process, self.out, self.inp = process, to_browser, from_browser
        self.number, self.buffer, self.session, self.complaints = 0, b"", None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.buffer:
            data = os.read(self.inp, 1 << 16)
            assert data, "the browser is gone"
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        body = {"id": self.number, "method": method, "params": params}
        if self.session:
            body["sessionId"] = self.session
        os.write(self.out, json.dumps(body).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"])[:500])
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression, what):
        end = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, what
            time.sleep(0.1)

    def screenshot(self, path, width, height, scheme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        time.sleep(1.5)  # the panel draws itself once a second
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser_page():
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def descriptors():
        os.dup2(to_read, 3)
        os.dup2(from_write, 4)

    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        process = subprocess.Popen(["chromium", *flags], preexec_fn=descriptors, close_fds=False, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            yield Page(process, to_write, from_read)
        finally:
            process.kill()
            process.wait()
            time.sleep(0.5)  # its children let go of the profile


def ask(page, words, turns):
    page.value(f"document.getElementById('input').value = {json.dumps(words)}; document.getElementById('form').requestSubmit()")
    page.wait_for(f"document.querySelectorAll('main .note').length > {turns} && document.getElementById('send').textContent === 'Send'",
                  f"no answer to {words!r}")


def run(binary, folder):
    with running_server(binary, "--http", "127.0.0.1:0", door="http") as (_, address), browser_page() as page:
        page.call("Page.navigate", url=f"http://{address}/")
        page.wait_for("document.getElementById('model')?.textContent.startsWith('demo-moe')", "the page does not name the model")
        for turn, words in enumerate(["Tell me a story about a dog.", "<b>And</b> a cat?", "Why?"]):
            ask(page, words, turn)
        assert not page.value("document.querySelector('.error')?.textContent"), page.value("document.querySelector('.error').textContent")
        assert not page.value("document.querySelector('#log b')"), "words became markup"
        notes = page.value("[...document.querySelectorAll('main .note')].map(note => note.textContent).join('|')")
        assert notes.count("tokens in") == 3, notes
        page.wait_for("/%/.test(document.getElementById('saved').textContent)", "no cache hits are shown")
        page.wait_for("/strongest/.test(document.getElementById('expertNote').textContent)", "no expert load is shown")
        page.wait_for("document.querySelector('#spark polyline').getAttribute('points').length > 10", "no curve")
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(folder / "light.png", 1200, 800, "light")
            page.screenshot(folder / "dark.png", 1200, 800, "dark")
            page.screenshot(folder / "narrow.png", 420, 800, "light")
        page.value("document.getElementById('input').value = 'Long'; document.getElementById('form').requestSubmit(); "
                   "setTimeout(() => document.getElementById('form').requestSubmit(), 100)")
        page.wait_for("document.getElementById('send').textContent === 'Send'", "Stop does not stop")
        assert not page.complaints, page.complaints
    print("passed  chats and shows the load")


def run_with_token(binary):
    """A server that asks for a token: the page asks for it, once."""
    made = subprocess.run([binary, "token", "--name", "reader"], check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        tokens = pathlib.Path(folder) / "tokens.json"
        tokens.write_text(json.dumps({"tokens": [json.loads(made.stderr.splitlines()[-1])]}))
        with (running_server(binary, "--http", "127.0.0.1:0", "--auth-tokens", str(tokens), door="http") as (_, address),
              browser_page() as page):
            page.call("Page.navigate", url=f"http://{address}/")
            for token in ("wrong", made.stdout.strip()):
                page.wait_for("document.getElementById('door')?.open", "the page does not ask for the token")
                page.value(f"document.getElementById('token').value = {json.dumps(token)}; document.querySelector('#door button').click()")
            page.wait_for("document.getElementById('model').textContent.startsWith('demo-moe')", "the token opens nothing")
            ask(page, "Tell me a story.", 0)
            assert not page.value("document.querySelector('.error')?.textContent"), page.value("document.querySelector('.error').textContent")
    print("passed  asks for a token")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    if not shutil.which("chromium"):
        print("page: chromium is not installed, so the page is not tried out")
        sys.exit(0)
    run(sys.argv[1], pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else None)
    run_with_token(sys.argv[1])
    print("2 passed, 0 failed")
