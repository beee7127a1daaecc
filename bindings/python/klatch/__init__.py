"""klatch in a Python program: rooms, a WebSocket server and a durable, ordered message log.

::

    import asyncio, klatch

    async def main():
        async with klatch.Engine(log="chat-data", listen="127.0.0.1:8080") as engine:
            await engine.publish("lobby", {"text": "hello"})
            async for publication in engine.subscribe("lobby", history=10):
                print(publication.user, publication.data)

    asyncio.run(main())

:class:`Engine` is for event loops, :mod:`klatch.sync` for scripts and threads, :mod:`klatch.testing` for tests of what embeds it.
"""

from . import errors, events, hooks, sync, testing
from ._asyncio import Consumer, Engine, Events, Subscription
from ._data import Json
from ._klatch import Ack, HistoryPage, Publication, __version__
from ._settings import Position, Presence, User
from .errors import *  # noqa: F403
from .hooks import ConnectRequest, Deny, JoinRequest, PublishRequest, Replace

__all__ = [
    "Ack",
    "ConnectRequest",
    "Consumer",
    "Deny",
    "Engine",
    "Events",
    "HistoryPage",
    "JoinRequest",
    "Json",
    "Position",
    "Presence",
    "Publication",
    "PublishRequest",
    "Replace",
    "Subscription",
    "User",
    "__version__",
    "errors",
    "events",
    "hooks",
    "sync",
    "testing",
    *errors.__all__,
]
