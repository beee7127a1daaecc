"""The engine for scripts and threads: the same as :class:`klatch.Engine`, but its methods wait. Ctrl-C ends them."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Callable, Iterable, Iterator, List, Mapping, Optional, Tuple, Type, Union

from . import _klatch
from ._asyncio import BATCH, given
from ._data import encode
from ._klatch import Ack, HistoryPage, Publication
from ._settings import Base, Position, Since, split
from .errors import ForkedError, KlatchError
from .events import Event, made

__all__ = ["Engine", "Events", "Subscription"]


class Subscription:
    """A room's publications: history first, then live, without gap or double. Iterate over it; it ends when the engine stops."""

    def __init__(self, native: _klatch.Subscription) -> None:
        self._native = native
        self._ahead: List[Publication] = []
        self._last: Optional[int] = None

    def batch(self, most: int = BATCH, timeout: Optional[float] = None) -> Optional[List[Publication]]:
        """The next publications, at most so many; waits for the first. Empty after ``timeout`` seconds, ``None`` at the end."""
        if self._ahead:
            taken = self._ahead[-most:][::-1]
            del self._ahead[-most:]
            self._last = taken[-1].offset
            return taken
        got = self._native.wait(most, timeout)
        if got:
            self._last = got[-1].offset
        return got

    def __iter__(self) -> Iterator[Publication]:
        return self

    def __next__(self) -> Publication:
        if not self._ahead:
            before = self._last
            batch = self.batch()
            if batch is None:
                raise StopIteration
            self._last = before
            self._ahead = batch[::-1]
        publication = self._ahead.pop()
        self._last = publication.offset
        return publication

    @property
    def recovered(self) -> bool:
        """For a start from a position: whether it could be resumed from. If not, the newest history comes instead."""
        return self._native.recovered

    @property
    def position(self) -> Position:
        """The place of the last publication that you have had: subscribe since here to go on. Of all rooms it means nothing."""
        epoch, offset = self._native.position()
        if not self._ahead:
            return Position(epoch, offset)
        return Position(epoch, self._ahead[-1].prev if self._last is None else self._last)

    def close(self) -> None:
        """Ends it, also while another thread waits for it."""
        self._native.close()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


class Events:
    """The engine's events. There is one queue: two streams share it, and each event goes to one of them."""

    def __init__(self, native: _klatch.Events) -> None:
        self._native = native
        self._ahead: List[Event] = []

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event; ``None`` at the end, or after ``timeout`` seconds."""
        while not self._ahead:
            got = self._native.wait(timeout)
            if not got:
                return None
            self._ahead = made(got)[::-1]
        return self._ahead.pop()

    def close(self) -> None:
        """Nobody reads it any more; who waits for it is told so."""
        self._native.close()


class Engine(Base):
    """A running engine whose methods wait.

    ::

        with klatch.sync.Engine(log="chat-data", listen="127.0.0.1:8080") as engine:
            engine.publish("lobby", {"text": "hello"})
            engine.serve_forever()

    Any thread may call it. Its hooks are plain functions, called on threads of the engine.
    """

    def start(self) -> "Engine":
        """Opens the log, binds the addresses and starts; the end of :class:`Engine` in ``with``."""
        if self._native is not None:
            raise RuntimeError("the engine has been started")
        self._began(self._begin(None))
        return self

    def stop(self, timeout: Optional[float] = None) -> int:
        """Stops: takes no more connections and publishes, stores and answers what is queued, tells clients to come back, closes the
        log. Returns how many messages were not written in time; each was answered. Waits at most about ``timeout`` seconds."""
        native = self._native
        return 0 if native is None else native.stop(self._stop_timeout if timeout is None else timeout)

    def __enter__(self) -> "Engine":
        return self.start()

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.stop()
        except ForkedError:
            # The block ends in a child too; the engine is the parent's to stop.
            pass

    def serve_forever(self) -> None:
        """Waits until Ctrl-C, which raises ``KeyboardInterrupt`` as ever, or until the engine has stopped."""
        while self._native is not None and self._native.health() != "stopped":
            threading.Event().wait(0.2)

    def publish(self, room: str, data: Any, *, user: str = "", id: str = "") -> Ack:
        """Stores and delivers a message, and waits for the outcome.

        :param data: ``bytes``, :class:`~klatch.Json`, or anything that ``json.dumps`` takes.
        :param user: who it is from.
        :param id: its id, so that it can be published again after :class:`~klatch.OutcomeUnknown`.
        :raises klatch.NotStored: it is certainly not stored.
        :raises klatch.OutcomeUnknown: it may be.
        """
        return self._engine.publish_wait(room, encode(data), user, id)

    def publish_batch(self, messages: Iterable[Tuple[Any, ...]]) -> List[Union[Ack, KlatchError]]:
        """Stores and delivers several messages, in order; cheaper than one by one. Each is ``(room, data)``, with ``user`` and ``id``
        behind it where there are some. Returns an outcome for each, an error among them."""
        return self._engine.publish_batch_wait([given(message) for message in messages])

    def history(
        self, room: str, *, after: int = 0, before: int = 0, limit: int = 50, backward: bool = False, at_least: int = 0
    ) -> HistoryPage:
        """Reads a page of a room's history; see :meth:`klatch.Engine.history`."""
        return self._engine.history(room, after, before, limit, backward, at_least)

    def subscribe(self, room: str, *, since: Optional[Since] = None, history: int = 0) -> Subscription:
        """Listens to a room: from the first publication after ``since``, or the newest ``history``, or live."""
        offset, epoch = split(since)
        return Subscription(self._engine.subscribe(room, offset, epoch, history))

    def subscribe_all(self) -> Subscription:
        """Listens to every room: everything that this node delivers from now on, in the order of each room.

        There is no history and no position to go on from: one that ends because it was not read has a gap. Where each publication must
        be dealt with once, on whichever node, there is :meth:`consume`.
        """
        return Subscription(self._engine.subscribe_all())

    def events(self) -> Events:
        """The engine's events from now on."""
        return Events(self._engine.events())

    def consume(
        self,
        group: str,
        handler: Callable[[Publication], Any],
        *,
        from_end: bool = False,
        retry: Tuple[float, float] = (0.2, 30.0),
        release: float = 30.0,
        properties: Optional[Mapping[str, str]] = None,
        stop_timeout: float = 10.0,
    ) -> None:
        """Calls ``handler`` for every publication of every room, as a member of a consumer group, until the engine stops or the handler
        raises, which leaves the group. Only on Kafka. What was handled is committed."""
        native = self._engine.consume(group, from_end, 1, retry, release, list((properties or {}).items()))
        try:
            while True:
                try:
                    task = native.wait(5)
                except TimeoutError:
                    # One that has failed has nobody to say so.
                    failed = native.status()["failed"]
                    if failed:
                        raise KlatchError(f"the consumer has failed: {failed}") from None
                    continue
                if task is None:
                    return
                try:
                    handler(task.publication)
                except BaseException as error:
                    task.done(f"{type(error).__name__}: {error}")
                    raise
                task.done(None)
        finally:
            native.stop(stop_timeout)
