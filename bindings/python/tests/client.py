"""A chat client for tests, on the package websockets: an independent implementation of the WebSocket protocol."""

import asyncio
import json
from urllib.parse import urlencode

import websockets


class Client:
    def __init__(self, ws):
        self.ws = ws

    @classmethod
    async def connect(cls, engine, **query):
        url = f"{engine.url}?{urlencode(query)}" if query else engine.url
        return cls(await websockets.connect(url, subprotocols=["klatch.v1"]))

    async def next(self):
        return json.loads(await asyncio.wait_for(self.ws.recv(), 30))

    async def until(self, **parts):
        """The next frame that has these parts."""
        while True:
            frame = await self.next()
            if all(frame.get(k) == v for k, v in parts.items()):
                return frame

    async def send(self, **frame):
        await self.ws.send(json.dumps(frame))

    async def close(self):
        await self.ws.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.close()
