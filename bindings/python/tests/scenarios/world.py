"""Plays scenarios of tests/scenarios against an engine of this package; their README says what each word means."""

import base64
import dataclasses
import json
import time

import klatch

from .pattern import Mismatch, accepts, fill, matches, text_of
from .ws import PATIENCE, Ws, frame, get, percent

FENCES = 1 << 40


def dumps(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Hooks:
    """What they do is written in what they are asked."""

    def connect(self, request):
        token = request.token
        if token == "":
            return request.user
        if token == "deny":
            raise klatch.Deny("no entry")
        self.odd(token)
        return token[len("user:") :] if token.startswith("user:") else None

    def join(self, request):
        word = request.room.split("-")[0]
        if word == "deny":
            return klatch.Deny("not this room")
        self.odd(word)
        return None if word == "drop" else True

    def publish(self, request):
        data = request.raw
        if data == b'"deny"':
            raise klatch.Deny("not this message")
        if data == b'"replace"':
            return klatch.Replace({"replaced": True})
        if data == b'"replace bytes"':
            return klatch.Replace(b"replaced")
        if data in (b'"never"', b'"throw"', b'"drop"'):
            self.odd(json.loads(data))
            return None
        return True

    def odd(self, word):
        if word == "throw":
            raise RuntimeError("a hook of a scenario fails on purpose")
        if word == "never":
            self.never()


class World:
    """The engine under test and everybody who talks to it. `host` is one of the two faces."""

    def __init__(self, host, settings, hooks):
        self.host_face = host
        self.settings = settings
        self.hooks = hooks
        self.clients = {}
        self.subscriptions = {}
        self.variables = {}

    def play(self, steps):
        self.start()
        try:
            for n, step in enumerate(steps):
                try:
                    self.step(step)
                except Exception as error:
                    raise AssertionError(f"step {n + 1}: {dumps(step)[:300]}\n    {error!r}") from error
            for client in self.clients.values():
                if not client.closed:
                    client.fence()
        finally:
            for client in self.clients.values():
                client.ws.finish()
            self.host_face.stop()

    def start(self):
        self.host_face.start(self.settings, self.hooks)

    def step(self, step):
        who, verb, *args = step
        if who == "host":
            self.host(verb, args)
        elif who == "http":
            self.http(verb, args)
        else:
            self.client(who, verb, args)

    def http(self, verb, args):
        path, status, *expected = args
        answer = get(self.host_face.address(), str(fill(path, self.variables)))
        assert verb == "get" and answer.status == status, f"got {answer.status}: {answer.body}"
        if expected and isinstance(expected[0], str):
            assert expected[0] in answer.body, answer.body
        elif expected:
            matches(expected[0], json.loads(answer.body), self.variables)

    # What the host program does.

    def host(self, verb, args):
        face, v = self.host_face, self.variables
        if verb == "repeat":
            for _ in range(args[0]):
                for step in args[1]:
                    self.step(step)
        elif verb == "stop":
            face.stop()
        elif verb == "start":
            self.start()
        elif verb == "restart":
            face.stop()
            self.start()
        elif verb.endswith("_eventually"):
            until = time.monotonic() + PATIENCE
            while True:
                before = dict(v)
                try:
                    return self.host(verb[: -len("_eventually")], args)
                except AssertionError:
                    if time.monotonic() > until:
                        raise
                    self.variables = v = before
                    time.sleep(0.01)
        elif verb == "next":
            name, expected = args
            got = []
            while len(got) < len(expected):
                batch = face.batch(self.subscriptions[name], len(expected) - len(got), PATIENCE)
                assert batch, f"no more came than {got}"
                got += [publication(p) for p in batch]
            matches(expected, got, v)
        elif verb == "next_nothing":
            got = face.batch(self.subscriptions[args[0]], 1, 0)
            assert got == [], got
        elif verb == "next_ended":
            got = face.batch(self.subscriptions[args[0]], 1, PATIENCE)
            assert not isinstance(got, list), got
            matches(args[1], got, v)
        elif verb == "events":
            face.events()
        elif verb == "event":
            matches(args[0], event(face.event(PATIENCE)), v)
        elif verb == "publish_batch":
            messages, expected = args
            outcomes = face.publish_batch([message(fill(m, v)) for m in messages])
            matches(expected, [error(o) if isinstance(o, Exception) else ack(o) for o in outcomes], v)
        elif verb == "subscribe":
            name, start, *expected = args
            start = fill(start, v)
            since = start.get("since")
            if since is not None and "epoch" in start:
                since = klatch.Position(start["epoch"], since)
            try:
                got = face.subscribe(start["room"], since, start.get("history", 0))
                self.subscriptions[name] = got
                epoch, offset = got.position
                got = {"recovered": got.recovered, "epoch": epoch, "offset": offset}
            except klatch.KlatchError as e:
                got = error(e)
            self.expected(expected, got)
        else:
            given, *expected = args
            try:
                got = self.simple(verb, fill(given, v))
            except klatch.KlatchError as e:
                got = error(e)
            self.expected(expected, got)

    def simple(self, verb, given):
        face = self.host_face
        if verb == "publish":
            room, data, user, id = message(given)
            return ack(face.publish(room, data, user, id))
        if verb == "history":
            page = face.history(**given)
            publications = [publication(p) for p in page]
            return {"epoch": page.epoch, "publications": publications, "more": page.more, "last": page.last}
        if verb == "presence":
            list = face.engine.presence(given)
            users = [{"user": u.user, "connections": u.connections} for u in list.users]
            return {"count": list.count, "users": users, **({"truncated": True} if list.truncated else {})}
        if verb == "signal":
            face.engine.signal(given["room"], given["name"], given.get("data"), user=given.get("user", ""))
            return None
        if verb == "send":
            face.engine.send(given["connection"], given["name"], given.get("data"))
            return None
        if verb == "kick":
            face.engine.kick(**given)
            return None
        raise AssertionError(f"the host does not {verb}")

    def expected(self, expected, got):
        if expected:
            matches(expected[0], got, self.variables)
        else:
            assert not (isinstance(got, dict) and "error" in got), got

    # What clients do.

    def open(self, options):
        options = {"path": "/ws", "protocols": ["klatch.v1"], **options}
        v = self.variables
        path = plain(fill(options["path"], v))
        for n, (key, value) in enumerate(sorted(options.get("query", {}).items())):
            mark = "?" if n == 0 and "?" not in path else "&"
            path += f"{mark}{percent(key)}={percent(plain(fill(value, v)))}"
        headers = [(n, plain(fill(x, v))) for n, x in options.get("headers", {}).items()]
        if options["protocols"]:
            headers.append(("Sec-WebSocket-Protocol", ", ".join(options["protocols"])))
        more = b"".join(frame(text_of(t).encode()) for t in options.get("with", []))
        ws, answer = Ws.open(self.host_face.address(), path, headers, more)
        if ws:
            ws.answers_pings = options.get("pongs", True)
        return ws, answer

    def client(self, name, verb, args):
        if verb == "connect":
            options = args[0] if args else {}
            ws, answer = self.open(options)
            assert ws, f"refused: {answer.status} {answer.body}"
            assert len(args) < 2 or args[1] in answer.head, answer.head
            self.clients[name] = Client(ws)
            return
        if verb == "refused":
            ws, answer = self.open(args[0])
            assert ws is None, "it was let in"
            assert answer.status == args[1] and (len(args) < 3 or args[2] in answer.body), (answer.status, answer.body)
            return
        if verb == "drop":
            client = self.clients.pop(name)
            client.ws.io.socket.close()
            return
        getattr(self.clients[name], "closed_" if verb == "closed" else verb)(self.variables, *args)


class Client:
    """A client of a scenario."""

    def __init__(self, ws):
        self.ws = ws
        self.fences = 0
        self.closed = False

    def json(self):
        return json.loads(self.ws.next_text())

    def fence(self):
        for _ in range(2):
            self.fences += 1
            reference = FENCES + self.fences
            self.ws.send(frame(dumps({"type": "ping", "ref": reference}).encode()))
            got = self.json()
            assert got == {"type": "pong", "ref": reference}, f"nothing was expected; got {got}"

    def send(self, v, *values):
        self.ws.send(b"".join(frame(dumps(fill(value, v)).encode()) for value in values))

    def send_text(self, v, *texts):
        self.ws.send(b"".join(frame(text_of(t).encode()) for t in texts))

    def send_frames(self, v, *frames):
        self.ws.send(b"".join(map(described, frames)))

    def send_bytes(self, v, hex):
        self.ws.send(bytes.fromhex(hex))

    def send_bytes_slowly(self, v, hex):
        for byte in bytes.fromhex(hex):
            self.ws.send(bytes([byte]))
            # Only makes it likely that each byte is read alone; nothing depends on it.
            time.sleep(0.001)

    def expect(self, v, *patterns):
        for pattern in patterns:
            matches(pattern, self.json(), v)

    def expect_unordered(self, v, *patterns):
        left = list(patterns)
        while left:
            got = self.json()
            hit = next((p for p in left if accepts(p, got, v)), None)
            if hit is None:
                raise Mismatch(f"none of those expected; got {got}")
            left.remove(hit)
            matches(hit, got, v)

    def expect_text(self, v, part):
        text = self.ws.next_text()
        assert text_of(part) in text, text

    def skip_to(self, v, pattern):
        while True:
            got = self.json()
            if accepts(pattern, got, v):
                return matches(pattern, got, v)

    def nothing(self, v):
        self.fence()

    def ping(self, v):
        kind, got = self.ws.read()
        assert kind == "ping", (kind, got)

    def pong(self, v, payload):
        kind, got = self.ws.read()
        assert (kind, got) == ("pong", plain(fill(payload, v)).encode()), (kind, got)

    def close_frame(self, skip):
        while True:
            kind, got = self.ws.read()
            if kind == "close":
                return got
            if kind == "end":
                return None, ""
            assert kind in ("ping", "pong") or (skip and kind == "text"), f"a close was expected; got {kind} {got}"

    def ended(self, got, code, reason):
        self.closed = True
        self.ws.finish(got[0] or 1000)
        assert got[0] == code and reason in (None, got[1]), f"closed with {got}"

    def closed_(self, v, code, reason=None):
        self.ended(self.close_frame(False), code, reason)

    def skip_to_closed(self, v, code, reason=None):
        self.ended(self.close_frame(True), code, reason)

    def repeat_until_closed(self, v, given, code, reason=None):
        data = described(given)
        until = time.monotonic() + PATIENCE
        self.ws.io.socket.settimeout(0.02)
        while True:
            try:
                self.ws.send(data)
            except OSError:
                # The server may close at any moment; what it said is read below.
                pass
            try:
                kind, got = self.ws.read()
            except TimeoutError:
                assert time.monotonic() < until, "it was not closed"
                continue
            if kind in ("close", "end"):
                self.ws.io.socket.settimeout(PATIENCE)
                return self.ended(got or (None, ""), code, reason)

    def close(self, v, code):
        self.ws.close(code)
        got = self.close_frame(False)
        self.closed = True
        self.ws.finish(code)
        assert got[0] == code, got



def described(given):
    given = dict(given)
    payload = text_of(given.pop("text")).encode() if "text" in given else bytes.fromhex(given.pop("hex", ""))
    return frame(payload, **given)


def plain(value):
    return value if isinstance(value, str) else dumps(value)


def message(given):
    data = base64.b64decode(given["bytes"]) if "bytes" in given else given["data"]
    return given["room"], data, given.get("user", ""), given.get("id", "")


def ack(a):
    return {"epoch": a.epoch, "offset": a.offset, "id": a.id, "duplicate": a.duplicate}


def error(e):
    return {"error": {"code": e.code, "name": e.name, "retry": e.retry}}


def publication(p):
    out = {"room": p.room, "offset": p.offset, "prev": p.prev, "time": p.time_ms}
    if p.user:
        out["user"] = p.user
    if p.given_id:
        out["id"] = p.given_id
    if p.is_bytes:
        out["bytes"] = base64.b64encode(p.data).decode()
    else:
        out["data"] = p.data
    return out


def event(e):
    out = {"type": type(e).__name__.lower(), **dataclasses.asdict(e)}
    out.pop("address", None)
    return out
