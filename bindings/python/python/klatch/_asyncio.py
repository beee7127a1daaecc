"""The engine in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

from . import _klatch
from ._data import encode
from ._klatch import Ack, HistoryPage, Publication
from ._settings import Base, Position, Since, split
from .errors import ForkedError, KlatchError
from .events import Event, made

_T = TypeVar("_T")

#: Most publications of one batch.
BATCH = 256

_wakes: Dict[asyncio.AbstractEventLoop, _klatch.Wake] = {}


def wake() -> _klatch.Wake:
    """The way from the engine's threads into the running loop. All engines of a loop share one."""
    loop = asyncio.get_running_loop()
    found = _wakes.get(loop)
    if found is not None:
        return found
    for old in [old for old in _wakes if old.is_closed()]:
        _wakes.pop(old, None)
    new = _klatch.Wake(loop.create_future)
    loop.add_reader(new.fileno(), new.run)
    _wakes[loop] = new
    return new


async def _in_thread(call: Callable[..., _T], *args: Any) -> _T:
    """Carries out what waits on a thread of the loop's."""
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


class Subscription:
    """A room's publications: history first, then live, without gap or double. Or those of all rooms, live.

    Iterate over it with ``async for``, or over whole batches with :meth:`batches`, which is much cheaper for many. It ends when the
    engine stops or it is closed, and raises :class:`~klatch.SubscriptionEnded` when it cannot go on.
    """

    def __init__(self, open: Callable[[], Awaitable[_klatch.Subscription]]) -> None:
        self._open = open
        self._native: Optional[_klatch.Subscription] = None
        self._ahead: Deque[Publication] = deque()
        self._last: Optional[int] = None
        self._closed = False

    async def _subscribed(self) -> Optional[_klatch.Subscription]:
        if self._native is None and not self._closed:
            native = await self._open()
            if self._closed:
                native.close()
                return None
            self._native = native
        return self._native

    async def batch(self, most: int = BATCH) -> List[Publication]:
        """The next publications, at most so many; waits for the first. Empty at the end. One task reads at a time:
        a :exc:`RuntimeError` while another one waits."""
        if self._ahead:
            taken = [self._ahead.popleft() for _ in range(min(most, len(self._ahead)))]
            self._last = taken[-1].offset
            return taken
        native = self._native or await self._subscribed()
        if native is None:
            return []
        here = wake()
        while not self._closed:
            got = native.poll(here, most)
            if got is None:
                break
            if type(got) is list:
                if got:
                    self._last = got[-1].offset
                    return got
                continue
            await cast("Awaitable[None]", got)
        return []

    async def batches(self, most: int = BATCH) -> AsyncIterator[List[Publication]]:
        """The publications in lists of those that are there, each of at most so many."""
        while True:
            batch = await self.batch(most)
            if not batch:
                return
            yield batch

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Publication:
        if not self._ahead:
            before = self._last
            batch = await self.batch()
            if not batch:
                raise StopAsyncIteration
            self._last = before
            self._ahead.extend(batch)
        publication = self._ahead.popleft()
        self._last = publication.offset
        return publication

    @property
    def recovered(self) -> bool:
        """For a start from a position: whether it could be resumed from. If not, the newest history comes instead. Known once it has
        been opened."""
        if self._native is None:
            raise RuntimeError("the subscription is not open yet: use it in `async with`, or read from it")
        return self._native.recovered

    @property
    def position(self) -> Position:
        """The place of the last publication that you have had: subscribe since here to go on. Of all rooms it means nothing."""
        if self._native is None:
            raise RuntimeError("the subscription is not open yet: use it in `async with`, or read from it")
        epoch, offset = self._native.position()
        if not self._ahead:
            return Position(epoch, offset)
        return Position(epoch, self._ahead[0].prev if self._last is None else self._last)

    async def aclose(self) -> None:
        """Ends it."""
        self._closed = True
        self._ahead.clear()
        if self._native is not None:
            self._native.close()

    async def __aenter__(self) -> "Subscription":
        await self._subscribed()
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()


class Events:
    """The engine's events. There is one queue: two streams share it, and each event goes to one of them."""

    def __init__(self, native: _klatch.Events) -> None:
        self._native = native
        self._ahead: Deque[Event] = deque()
        self._waits: Optional["asyncio.Future[None]"] = None

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Event:
        while not self._ahead:
            got = self._native.poll(wake())
            if got is None:
                raise StopAsyncIteration
            if type(got) is list:
                self._ahead.extend(made(got))
            else:
                self._waits = cast("asyncio.Future[None]", got)
                await self._waits
        return self._ahead.popleft()

    async def aclose(self) -> None:
        """Nobody reads it any more; a task that waits for it is told so."""
        self._native.close()
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)


class Consumer:
    """A member of a consumer group: every publication of every room, each handled on one node of the group. Only on Kafka.

    ::

        async with engine.consume("archive") as work:
            async for publication in work:
                await store(publication)

    A publication is done with, and will be committed, when the next one is asked for. Where the body raises, the ``async with`` leaves
    the group and what it was at work on will be handled again, here or elsewhere; so at least once: let the body find (room, offset)
    done already.
    """

    def __init__(self, open: Callable[[], Awaitable[_klatch.Consumer]], timeout: float) -> None:
        self._open = open
        self._timeout = timeout
        self._native: Optional[_klatch.Consumer] = None
        self._task: Any = None
        self._closed = False

    async def _joined(self) -> _klatch.Consumer:
        if self._native is None:
            self._native = await self._open()
        return self._native

    def __aiter__(self) -> "Consumer":
        return self

    async def __anext__(self) -> Publication:
        self._done(None)
        if self._closed:
            raise StopAsyncIteration
        native = await self._joined()
        while True:
            got = native.poll(wake())
            if got is None:
                raise StopAsyncIteration
            if hasattr(got, "publication"):
                self._task = got
                return cast(Publication, got.publication)
            # One that has failed has nobody to say so.
            await asyncio.wait([got], timeout=5)
            failed = native.status()["failed"]
            if failed:
                raise KlatchError(f"the consumer has failed: {failed}")

    def _done(self, error: Optional[str]) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.done(error)

    def retry(self, why: str = "the program asked for it") -> None:
        """Has the publication that was handed out last handled once more, after a while."""
        self._done(why)

    def status(self) -> Mapping[str, Union[int, str, None]]:
        """How it is: ``partitions``, ``lag``, ``handled``, ``retries``, ``skipped``, ``resets``, ``last_error`` and ``failed``."""
        if self._native is None:
            raise RuntimeError("the consumer has not joined yet: use it in `async with`, or read from it")
        return self._native.status()

    async def aclose(self, *, failed: bool = False) -> bool:
        """Leaves the group; whether all that was handled is committed. ``failed``: the last publication is not done with."""
        self._closed = True
        self._done("the program failed" if failed else None)
        if self._native is None:
            return True
        return await _in_thread(self._native.stop, self._timeout)

    async def __aenter__(self) -> "Consumer":
        await self._joined()
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose(failed=kind is not None)


class Engine(Base):
    """A running engine, in an event loop.

    ::

        async with klatch.Engine(log="chat-data", listen="127.0.0.1:8080") as engine:
            await engine.publish("lobby", {"text": "hello"})

    Its methods are called from the loop that it was started in, or from another one: each call answers to the loop that it is made in.
    In a thread without a loop use :mod:`klatch.sync`.
    """

    async def start(self) -> "Engine":
        """Opens the log, binds the addresses and starts; the end of :class:`Engine` in ``async with``."""
        if self._native is not None:
            raise RuntimeError("the engine has been started")
        loop = asyncio.get_running_loop()
        begun = loop.run_in_executor(None, self._begin, wake())
        try:
            native = await asyncio.shield(begun)
        except asyncio.CancelledError:
            # It may start all the same; then nobody would ever stop it.
            begun.add_done_callback(lambda done: done.cancelled() or done.exception() or done.result().stop(1.0))
            raise
        self._began(native)
        return self

    async def stop(self, timeout: Optional[float] = None) -> int:
        """Stops: takes no more connections and publishes, stores and answers what is queued, tells clients to come back, closes the
        log. Returns how many messages were not written in time; each was answered. Waits at most about ``timeout`` seconds."""
        native = self._native
        if native is None:
            return 0
        seconds = self._stop_timeout if timeout is None else timeout
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, native.stop, seconds))

    async def __aenter__(self) -> "Engine":
        return await self.start()

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            await self.stop()
        except ForkedError:
            # The block ends in a child too; the engine is the parent's to stop.
            pass

    def publish(self, room: str, data: Any, *, user: str = "", id: str = "") -> Awaitable[Ack]:
        """Stores and delivers a message; await what it returns for the outcome.

        It is on its way when this returns, and messages that one task publishes to a room are stored in that order. A coroutine that is
        cancelled while it waits does not take it back.

        :param data: ``bytes``, :class:`~klatch.Json`, or anything that ``json.dumps`` takes.
        :param user: who it is from.
        :param id: its id, so that it can be published again after :class:`~klatch.OutcomeUnknown`.
        :raises klatch.NotStored: it is certainly not stored.
        :raises klatch.OutcomeUnknown: it may be.
        """
        return self._engine.publish(wake(), room, encode(data), user or None, id or None)

    async def publish_batch(self, messages: Iterable[Tuple[Any, ...]]) -> List[Union[Ack, KlatchError]]:
        """Stores and delivers several messages, in order; cheaper than one by one. Each is ``(room, data)``, with ``user`` and ``id``
        behind it where there are some. Returns an outcome for each, an error among them."""
        futures = self._engine.publish_batch(wake(), [given(message) for message in messages])
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        return cast("List[Union[Ack, KlatchError]]", outcomes)

    async def history(
        self, room: str, *, after: int = 0, before: int = 0, limit: int = 50, backward: bool = False, at_least: int = 0
    ) -> HistoryPage:
        """Reads a page of a room's history.

        :param after: only publications with a larger offset.
        :param before: only publications with a smaller offset; 0 is no bound.
        :param limit: most publications; capped by ``limits.history_page``.
        :param backward: the newest first.
        :param at_least: answer only from what has reached this offset; else :class:`~klatch.Unavailable`.
        """
        return await _in_thread(self._engine.history, room, after, before, limit, backward, at_least)

    def subscribe(self, room: str, *, since: Optional[Since] = None, history: int = 0) -> Subscription:
        """Listens to a room.

        ``async for`` begins with the first publication after ``since``, or with the newest ``history``, or live. In ``async with`` the
        subscription begins at once, else with the first read.
        """
        engine = self._engine
        offset, epoch = split(since)
        return Subscription(lambda: _in_thread(engine.subscribe, room, offset, epoch, history))

    def subscribe_all(self) -> Subscription:
        """Listens to every room: everything that this node delivers from then on, in the order of each room.

        There is no history and no position to go on from: one that ends because it was not read has a gap. Where each publication must
        be dealt with once, on whichever node, there is :meth:`consume`.
        """
        engine = self._engine

        async def open() -> _klatch.Subscription:
            return engine.subscribe_all()

        return Subscription(open)

    def events(self) -> Events:
        """The engine's events from now on."""
        return Events(self._engine.events())

    def consume(
        self,
        group: str = "chats",
        *,
        from_end: bool = False,
        threads: int = 1,
        retry: Tuple[float, float] = (0.2, 30.0),
        release: float = 30.0,
        properties: Optional[Mapping[str, str]] = None,
        stop_timeout: float = 10.0,
    ) -> Consumer:
        """Joins a consumer group. Only on Kafka; see :class:`Consumer`.

        :param from_end: a group that is new begins at the end of the topic, not at its first record.
        :param threads: how many publications may be at work at once, of different partitions.
        :param retry: how long until a publication is handled again, in seconds, and the longest that this grows to.
        :param release: how long a partition that goes to another member waits for the one that is at work on it.
        :param properties: librdkafka's, for this consumer alone.
        :param stop_timeout: how long the end of the ``with`` block may wait.
        """
        engine = self._engine
        given = list((properties or {}).items())
        return Consumer(
            lambda: _in_thread(engine.consume, group, from_end, threads, retry, release, given), stop_timeout
        )


def given(message: Tuple[Any, ...]) -> Tuple[str, Union[str, bytes], str, str]:
    """A message of a batch, in full."""
    room, data, *rest = message
    user, id, *more = [*rest, "", ""][: max(2, len(rest))]
    if more:
        raise TypeError("a message is (room, data, user, id)")
    return room, encode(data), user, id
