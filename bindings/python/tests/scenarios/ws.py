"""A WebSocket client written from RFC 6455, blocking, without a library: it must be able to send what no library would."""

import socket
import struct
import urllib.parse

PATIENCE = 60
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Ended(Exception):
    pass


def frame(payload, opcode=1, fin=True, rsv=0, masked=True):
    mask = b"\x01\x02\x03\x04"
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    n = len(payload)
    if n < 126:
        head += bytes([bit | n])
    elif n < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", n)
    if masked:
        head += mask
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    return head + payload


class Answer:
    def __init__(self, head, body):
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        names = (line.partition(":") for line in lines[1:] if line)
        self.headers = {n.lower(): v.strip() for n, _, v in names}
        self.head = "\n".join([lines[0], *(f"{n}: {v}" for n, v in self.headers.items())])
        self.body = body


class Io:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def fill(self):
        try:
            got = self.socket.recv(65536)
        except ConnectionError:
            got = b""
        if not got:
            raise Ended
        self.buffer += got

    def take(self, n):
        while len(self.buffer) < n:
            self.fill()
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def answer(self):
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        answer = Answer(head.decode(), "")
        if answer.status == 101:
            return answer
        length = answer.headers.get("content-length")
        if length is not None:
            answer.body = self.take(int(length)).decode()
        else:
            try:
                while True:
                    self.fill()
            except Ended:
                answer.body = self.buffer.decode()
        return answer


def get(address, path):
    io = Io(address)
    io.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    return io.answer()


class Ws:
    """A connection that was upgraded."""

    def __init__(self, io):
        self.io = io
        self.answers_pings = True
        self.text = b""

    @staticmethod
    def open(address, path, headers, more):
        """The connection, or the answer that refused it; and the answer."""
        io = Io(address)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {address}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {KEY}",
            "Sec-WebSocket-Version: 13",
            *(f"{n}: {v}" for n, v in headers),
        ]
        io.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + more)
        answer = io.answer()
        if answer.status != 101:
            return None, answer
        assert answer.headers["sec-websocket-accept"] == ACCEPT
        return Ws(io), answer

    def send(self, data):
        self.io.socket.sendall(data)

    def read(self):
        """What comes next: a kind, and what is in it."""
        while True:
            try:
                first, second = self.io.take(2)
                n = second & 0x7F
                if n == 126:
                    (n,) = struct.unpack(">H", self.io.take(2))
                elif n == 127:
                    (n,) = struct.unpack(">Q", self.io.take(8))
                payload = self.io.take(n)
            except Ended:
                return "end", None
            assert not second & 0x80 and not first & 0x70, "a server does not mask, and has no extension"
            opcode = first & 0xF
            if opcode == 9:
                if self.answers_pings:
                    self.send(frame(payload, 10))
                return "ping", payload
            if opcode == 10:
                return "pong", payload
            if opcode == 8:
                code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 0
                return "close", (code, payload[2:].decode())
            self.text += payload
            if first & 0x80:
                text, self.text = self.text, b""
                return "text", text.decode()

    def next_text(self):
        while True:
            kind, got = self.read()
            if kind == "text":
                return got
            assert kind in ("ping", "pong"), f"a text was expected; got {kind} {got}"

    def close(self, code):
        self.send(frame(struct.pack(">H", code), 8))

    def finish(self, code=1000):
        try:
            self.close(code)
            self.io.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.io.socket.close()


def percent(text):
    return urllib.parse.quote(text, safe="-_.~")
