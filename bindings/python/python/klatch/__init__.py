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

from . import _interpreter  # noqa: F401  # It comes first.
from . import errors, events, hooks, sync, testing
from ._asyncio import Consumer, Engine, Events, Subscription
from ._data import Json
from ._klatch import Ack, HistoryPage, Publication, __version__
from ._settings import Position, Presence, User
from .errors import (
    AddressUnusable,
    Busy,
    Conflict,
    DataDirLocked,
    DataDirUnusable,
    Denied,
    ForkedError,
    HookTimeout,
    InternalError,
    InvalidConfig,
    InvalidData,
    InvalidId,
    InvalidName,
    InvalidRequest,
    KlatchError,
    LogDamaged,
    NotStored,
    OutcomeUnknown,
    RateLimited,
    Stopped,
    Stopping,
    StorageFailed,
    StorageFull,
    SubscriptionEnded,
    Timeout,
    TooDeep,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
    WouldDeadlock,
)
from .hooks import ConnectRequest, Deny, JoinRequest, PublishRequest, Replace

__all__ = [
    "Ack",
    "AddressUnusable",
    "Busy",
    "Conflict",
    "ConnectRequest",
    "Consumer",
    "DataDirLocked",
    "DataDirUnusable",
    "Denied",
    "Deny",
    "Engine",
    "Events",
    "ForkedError",
    "HistoryPage",
    "HookTimeout",
    "InternalError",
    "InvalidConfig",
    "InvalidData",
    "InvalidId",
    "InvalidName",
    "InvalidRequest",
    "JoinRequest",
    "Json",
    "KlatchError",
    "LogDamaged",
    "NotStored",
    "OutcomeUnknown",
    "Position",
    "Presence",
    "Publication",
    "PublishRequest",
    "RateLimited",
    "Replace",
    "Stopped",
    "Stopping",
    "StorageFailed",
    "StorageFull",
    "Subscription",
    "SubscriptionEnded",
    "Timeout",
    "TooDeep",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "User",
    "WouldDeadlock",
    "__version__",
    "errors",
    "events",
    "hooks",
    "sync",
    "testing",
]
