"""Clients that talk in rooms of their own: `python load.py klatch|socketio HOST:PORT CLIENTS RATE SECONDS`.

Raw sockets and frames that are made once, so that it costs little; a RATE of 0 is as fast as the server takes it. What the server sends
is read and thrown away. Prints how many it sent.
"""

import base64
import os
import selectors
import socket
import sys
import time

TEXT = '{"text":"hello, this is a message as people write them"}'


def frame(text):
    data = text.encode()
    assert len(data) < 126
    # A mask of zeros changes nothing.
    return bytes([0x81, 0x80 | len(data)]) + bytes(4) + data


def connect(kind, address, n):
    host, port = address.rsplit(":", 1)
    s = socket.create_connection((host, int(port)))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    path = f"/ws?room=room{n}&user=u{n}" if kind == "klatch" else "/socket.io/?EIO=4&transport=websocket"
    protocol = "Sec-WebSocket-Protocol: klatch.v1\r\n" if kind == "klatch" else ""
    key = base64.b64encode(os.urandom(16)).decode()
    s.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{protocol}"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    got = b""
    # Joined, or the open packet of Engine.IO.
    while (b'"joined"' if kind == "klatch" else b'"sid"') not in got:
        got += s.recv(65536)
    if kind == "socketio":
        s.sendall(frame("40"))
        got = b""
        while b"40{" not in got:
            got += s.recv(65536)
    s.setblocking(False)
    return s


def main(kind, address, clients, rate, seconds):
    sockets = [connect(kind, address, n) for n in range(clients)]
    message = frame('{"type":"publish","data":' + TEXT + "}" if kind == "klatch" else '42["message",' + TEXT + "]")
    selector = selectors.DefaultSelector()
    for s in sockets:
        selector.register(s, selectors.EVENT_READ)
    rest = {s: b"" for s in sockets}
    # Pieces of whole messages, so that as little as possible is copied.
    piece = message * 64
    sent, start = 0, time.monotonic()
    while True:
        now = time.monotonic() - start
        if now >= seconds:
            break
        for s in sockets:
            due = 64 * clients if not rate else int(rate * now) - sent
            if not rest[s]:
                count = min(64, due // clients if not rate else max(1, due // clients))
                if rate and due < clients:
                    break
                rest[s] = piece[: count * len(message)]
                sent += count
            try:
                rest[s] = rest[s][s.send(rest[s]) :]
            except BlockingIOError:
                pass
        for key, _ in selector.select(0.0005 if rate else 0):
            try:
                if not key.fileobj.recv(1 << 20):
                    sys.exit("the server closed a connection")
            except BlockingIOError:
                pass
    elapsed = time.monotonic() - start
    print(int(sent / elapsed))


if __name__ == "__main__":
    kind, address, clients, rate, seconds = sys.argv[1:]
    main(kind, address, int(clients), int(rate), float(seconds))
