"""The native half of klatch; see the modules beside it."""

from asyncio import Future
from collections.abc import Callable, Iterator
from typing import Any, final

__all__ = [
    "Answer",
    "ConnectRequest",
    "JoinRequest",
    "PublishRequest",
    "Consumer",
    "Engine",
    "_codes",
    "Events",
    "_forked",
    "_panic_next",
    "_flush_log",
    "_log_level",
    "Ack",
    "HistoryPage",
    "Publication",
    "Subscription",
    "Wake",
    "_main",
    "__version__",
]

__version__: str

@final
class Engine:
    @staticmethod
    def start(settings: str, page: str | None, hooks: tuple[Any, bool, bool] | None, wake: Wake | None) -> Engine: ...
    def stop(self, timeout: float) -> int: ...
    def addresses(self) -> list[str]: ...
    def publish(
        self, wake: Wake, room: str, data: str | bytes, user: str | None, id: str | None
    ) -> Future[Ack]: ...
    def publish_wait(self, room: str, data: str | bytes, user: str, id: str) -> Ack: ...
    def publish_batch(self, wake: Wake, messages: list[tuple[str, str | bytes, str, str]]) -> list[Future[Ack]]: ...
    def publish_batch_wait(self, messages: list[tuple[str, str | bytes, str, str]]) -> list[Any]: ...
    def history(
        self, room: str, after: int, before: int, limit: int, backward: bool, at_least: int
    ) -> HistoryPage: ...
    def subscribe(self, room: str, offset: int | None, epoch: str | None, history: int) -> Subscription: ...
    def subscribe_all(self) -> Subscription: ...
    def presence(self, room: str) -> tuple[int, list[tuple[str, int]], bool]: ...
    def signal(self, room: str, user: str, name: str, json: str) -> None: ...
    def send(self, connection: str, name: str, json: str) -> None: ...
    def kick(self, user: str | None, connection: str | None, room: str | None) -> None: ...
    def events(self) -> Events: ...
    def consume(
        self,
        group: str,
        from_end: bool,
        threads: int,
        retry: tuple[float, float],
        release: float,
        properties: list[tuple[str, str]],
    ) -> Consumer: ...
    def metrics(self) -> str: ...
    def health(self) -> str: ...

@final
class Wake:
    def __new__(cls, create_future: Callable[[], Future[Any]]) -> Wake: ...
    def fileno(self) -> int: ...
    def run(self) -> None: ...

@final
class Subscription:
    def poll(self, wake: Wake, max: int) -> list[Publication] | Future[None] | None: ...
    def wait(self, max: int, timeout: float | None) -> list[Publication] | None: ...
    def position(self) -> tuple[str, int]: ...
    @property
    def recovered(self) -> bool: ...
    def close(self) -> None: ...

@final
class Events:
    def poll(self, wake: Wake) -> list[tuple[Any, ...]] | Future[None] | None: ...
    def wait(self, timeout: float | None) -> list[tuple[Any, ...]] | None: ...
    def close(self) -> None: ...

@final
class Consumer:
    def poll(self, wake: Wake) -> Any: ...
    def wait(self, timeout: float | None) -> Any: ...
    def status(self) -> dict[str, int | str | None]: ...
    def stop(self, timeout: float) -> bool: ...

@final
class Answer:
    def allow(self, user: str) -> None: ...
    def deny(self, message: str) -> None: ...
    def replace(self, data: str | bytes) -> None: ...
    def drop(self) -> None: ...

@final
class ConnectRequest:
    """A connection that asks to be let in."""

    @property
    def connection(self) -> str:
        """The connection's id, as in its welcome."""
    @property
    def user(self) -> str:
        """The user that the client claims to be; empty if none."""
    @property
    def token(self) -> str:
        """The client's token; empty if none."""
    @property
    def address(self) -> str:
        """The client's address, as ``host:port``."""

@final
class JoinRequest:
    """A connection that asks to join a room."""

    @property
    def connection(self) -> str:
        """The connection's id."""
    @property
    def user(self) -> str:
        """Its user; empty for an anonymous one."""
    @property
    def room(self) -> str:
        """The room."""

@final
class PublishRequest:
    """A message that a client publishes."""

    @property
    def connection(self) -> str:
        """The connection's id."""
    @property
    def user(self) -> str:
        """Its user; empty for an anonymous one."""
    @property
    def room(self) -> str:
        """The room."""
    @property
    def id(self) -> str:
        """The message id as the client gave it; empty if it gave none."""
    @property
    def is_bytes(self) -> bool:
        """Whether the data is bytes; else it is JSON."""
    @property
    def data(self) -> Any:
        """The data: what ``json.loads`` makes of the JSON, or bytes. Made anew each time."""
    @property
    def raw(self) -> bytes:
        """The data as it was sent: UTF-8 JSON text, or bytes."""

@final
class Publication:
    """A stored message."""

    @property
    def room(self) -> str:
        """The room's name."""
    @property
    def offset(self) -> int:
        """Its place in the room. Offsets of a room grow, and may skip."""
    @property
    def prev(self) -> int:
        """The offset of the publication before it in its room; 0 if there is none."""
    @property
    def time(self) -> float:
        """The log's time of it, in seconds since 1970 UTC."""
    @property
    def time_ms(self) -> int:
        """The same in whole milliseconds."""
    @property
    def user(self) -> str:
        """Who sent it; empty for an anonymous one."""
    @property
    def id(self) -> str:
        """Its id: the sender's, or one that the engine made."""
    @property
    def given_id(self) -> str:
        """Its id as the sender gave it; empty if it gave none."""
    @property
    def is_bytes(self) -> bool:
        """Whether its data is bytes; else it is JSON."""
    @property
    def data(self) -> Any:
        """Its data: what ``json.loads`` makes of the JSON, or bytes. Made once."""
    @property
    def raw(self) -> bytes:
        """Its data as it lies in the log: UTF-8 JSON text exactly as it was sent, or bytes."""

@final
class HistoryPage:
    """A page of a room's history. Iterate over it for its publications."""

    @property
    def publications(self) -> list[Publication]:
        """The publications, in the order asked for."""
    @property
    def more(self) -> bool:
        """Whether the range holds more, in the direction read."""
    @property
    def last(self) -> int:
        """The room's last offset."""
    @property
    def epoch(self) -> str:
        """Which incarnation of the room's stream the offsets belong to."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Publication]: ...

@final
class Ack:
    """What a publish came to: the message is stored."""

    @property
    def offset(self) -> int:
        """Its place in its room."""
    @property
    def epoch(self) -> str:
        """Which incarnation of the room's stream the offset belongs to."""
    @property
    def id(self) -> str:
        """The message's id; made by the engine if none was given."""
    @property
    def duplicate(self) -> bool:
        """Whether it had been stored before, by an earlier publish with the same id."""

def _codes() -> list[tuple[int, str, str, str]]: ...
def _flush_log(timeout: float) -> None: ...
def _forked() -> None: ...
def _log_level(level: int) -> None: ...
def _main(args: list[str]) -> int: ...
def _panic_next() -> None: ...
