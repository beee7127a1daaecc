"""The examples, as programs of their own, driven over sockets. The archive is in test_kafka.py."""

import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
import websockets.sync.client as ws
from websockets.exceptions import ConnectionClosed

from conftest import PATIENCE, begin

EXAMPLES = Path(__file__).parents[3] / "examples" / "python"


def chat(url, **query):
    more = "&".join(f"{k}={v}" for k, v in query.items())
    return ws.connect(f"{url}?{more}", subprotocols=["klatch.v1"])


def until(client, **parts):
    while True:
        frame = json.loads(client.recv(PATIENCE))
        if all(frame.get(k) == v for k, v in parts.items()):
            return frame


def site_of(server, words):
    """Where a web server says that it listens, once it does: uvicorn says so of several workers before it is true."""
    said = ""
    for line in server.stderr:
        said += line
        if words in line:
            break
    assert words in said, said
    site = said.split(words)[1].split()[0]
    host, port = site.removeprefix("http://").split(":")
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host, int(port))).close()
            return site
        except ConnectionRefusedError:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.01)


def browser():
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))


def test_web(tmp_path):
    server = begin(
        *("-m", "uvicorn", "web:app", "--port", 0, "--app-dir", EXAMPLES),
        env={**os.environ, "CHAT_LOG": str(tmp_path / "log"), "CHAT_LISTEN": "127.0.0.1:0"},
    )
    try:
        site = site_of(server, "running on ")
        page = browser()
        with pytest.raises(urllib.error.HTTPError) as refused:
            page.open(f"{site}/chat")
        assert refused.value.code == 401
        page.open(f"{site}/login?user=ann").close()
        with page.open(f"{site}/chat") as answer:
            given = json.load(answer)
        with chat(given["url"], user="bob", token=given["ticket"], room="for-ann") as ann:
            assert until(ann, type="welcome")["user"] == "ann"
            until(ann, type="joined")
            page.open(urllib.request.Request(f"{site}/order", method="POST")).close()
            assert until(ann, type="publication")["data"] == {"order": "taken"}
            ann.send(json.dumps({"type": "join", "room": "for-bob", "ref": 1}))
            assert until(ann, ref=1)["name"] == "denied"
        with chat(given["url"], user="ann", token="forged") as mallory:
            assert until(mallory, type="error")["message"] == "log in first"
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0 and "Traceback" not in err and "shutdown complete" in err, err
    finally:
        server.kill()
        server.wait()


# Several workers of uvicorn say nothing of a port that they chose; at an address of one's own none is taken.
UVICORN = ["-m", "uvicorn", "--workers", 2, "--host", f"127.9.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"]
UVICORN += ["--app-dir", EXAMPLES, "web:app"]
GUNICORN = ["-m", "gunicorn", "--workers", 2, "--bind", "127.0.0.1:0", "--chdir", EXAMPLES]
GUNICORN += ["--worker-class", "uvicorn_worker.UvicornWorker", "web:app"]


@pytest.mark.parametrize(
    "command, words",
    [
        pytest.param(UVICORN, "running on ", id="uvicorn"),
        pytest.param(GUNICORN, "Listening at: ", id="gunicorn"),
        # Here the engine is made before the fork, and started after it.
        pytest.param([*GUNICORN, "--preload"], "Listening at: ", id="gunicorn-preload"),
    ],
)
def test_web_with_several_workers(command, words, kafka, tmp_path):
    topic = f"web-{tmp_path.name}"
    server = begin(
        *command,
        cwd=tmp_path,
        start_new_session=True,
        env={**os.environ, "SECRET": "of all workers", "CHAT_LOG": kafka + topic, "CHAT_LISTEN": "127.0.0.1:0"},
    )
    try:
        site = site_of(server, words)
        page = browser()
        page.open(f"{site}/login?user=ann").close()
        # Whichever worker answers names its own engine.
        tickets = {}
        while len(tickets) < 2:
            with page.open(f"{site}/chat") as answer:
                given = json.load(answer)
                tickets[given["url"]] = given["ticket"]
        (one, first), (two, second) = tickets.items()
        with chat(one, token=first, room="for-ann") as ann, chat(two, token=second, room="for-ann") as again:
            until(ann, type="joined")
            until(again, type="joined")
            with page.open(urllib.request.Request(f"{site}/order", method="POST")) as answer:
                offset = json.load(answer)["offset"]
            assert until(ann, type="publication")["offset"] == until(again, type="publication")["offset"] == offset
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0 and "Traceback" not in err, err
    finally:
        # The workers too, where it could not end them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_moderator(tmp_path):
    bot = begin(EXAMPLES / "moderator.py", "--listen", "127.0.0.1:0", "--log", tmp_path / "log")
    try:
        url = bot.stdout.readline().split()[-1]
        with chat(url, user="ann", room="lobby") as ann, chat(url, user="bob", room="lobby") as bob:
            assert "ann" in until(ann, type="signal", name="rules")["data"]["text"]
            until(bob, type="signal", name="rules")

            def say(text):
                bob.send(json.dumps({"type": "publish", "data": {"text": text}, "ref": 1}))

            say("  hello ")
            assert until(ann, type="publication")["data"] == {"text": "hello"}
            for _ in range(3):
                say("buy my SPAM now")
            until(bob, type="error", ref=1, message="not here")
            assert until(ann, type="publication", user="moderator")["data"]["text"] == "bob has left us"
            try:
                while True:
                    bob.recv(PATIENCE)
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 4500
        bot.send_signal(signal.SIGINT)
        out, err = bot.communicate(timeout=PATIENCE)
        assert (bot.returncode, err) == (0, "")
    finally:
        bot.kill()
        bot.wait()
