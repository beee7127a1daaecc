"""The examples, as programs of their own, driven over sockets. The archive is in test_kafka.py."""

import json
import os
import signal
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


def until(socket, **parts):
    while True:
        frame = json.loads(socket.recv(PATIENCE))
        if all(frame.get(k) == v for k, v in parts.items()):
            return frame


def test_web(tmp_path):
    server = begin(
        *("-m", "uvicorn", "web:app", "--port", 0, "--app-dir", EXAMPLES),
        env={**os.environ, "CHAT_LOG": str(tmp_path / "log"), "CHAT_LISTEN": "127.0.0.1:0"},
    )
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if "running on" in line:
                break
        assert "running on" in line, said
        site = line.split("running on ")[1].split(" ")[0]
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with pytest.raises(urllib.error.HTTPError) as refused:
            browser.open(f"{site}/chat")
        assert refused.value.code == 401
        browser.open(f"{site}/login?user=ann").close()
        with browser.open(f"{site}/chat") as answer:
            given = json.load(answer)
        with chat(given["url"], user="bob", token=given["ticket"], room="for-ann") as ann:
            assert until(ann, type="welcome")["user"] == "ann"
            until(ann, type="joined")
            browser.open(urllib.request.Request(f"{site}/order", method="POST")).close()
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
