"""What an engine is made with: settings, hooks, a page. The same for both faces."""

from __future__ import annotations

import atexit
import json
import weakref
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from . import _klatch, _logging
from .errors import InvalidConfig, Stopped
from .hooks import ConnectHook, Hooks, JoinHook, PublishHook, is_async, timeout_of

_C = TypeVar("_C", bound=ConnectHook)
_J = TypeVar("_J", bound=JoinHook)
_P = TypeVar("_P", bound=PublishHook)

Settings = Mapping[str, Any]

#: Engines that run in this process, to be stopped when it ends.
_running: "weakref.WeakSet[Base]" = weakref.WeakSet()


class Position(NamedTuple):
    """A place in a room's stream."""

    #: Which incarnation of the stream it is of.
    epoch: str
    #: The offset of the last publication seen.
    offset: int


class User(NamedTuple):
    """A named user in a room."""

    #: The name.
    user: str
    #: How many connections the user has there.
    connections: int


@dataclass(frozen=True)
class Presence:
    """Who is in a room, on this node."""

    #: Members, counted by connection, anonymous ones among them.
    count: int
    #: Named users, sorted by name; at most ``limits.presence_names``.
    users: List[User]
    #: Whether there are more named users than are listed.
    truncated: bool


#: Where a subscription begins: behind this place. An offset alone does not say of which stream it is.
Since = Union[Position, int, Tuple[str, int]]


def split(since: Optional[Since]) -> Tuple[Optional[int], Optional[str]]:
    """Offset and epoch of a place."""
    if since is None:
        return None, None
    if isinstance(since, int):
        return since, None
    epoch, offset = since
    return offset, epoch


class Base:
    """What both engines have in common."""

    def __init__(
        self,
        settings: Optional[Settings] = None,
        *,
        log: Optional[str] = None,
        listen: Union[str, Sequence[str], None] = None,
        page: Optional[str] = None,
        on_connect: Optional[ConnectHook] = None,
        on_join: Optional[JoinHook] = None,
        on_publish: Optional[PublishHook] = None,
        stop_timeout: float = 5.0,
        **more: Any,
    ) -> None:
        """Does not start it yet.

        ``settings`` and the further arguments are those of docs/configuration.md, tables as mappings: ``limits={"publish_rate": 0}``.

        :param log: where messages are kept: a directory, ``memory``, or ``kafka://host:port/topic``.
        :param listen: addresses to listen on; port 0 picks a free one. None: no listener.
        :param page: the HTML page at ``/``.
        :param stop_timeout: how long the end of the ``with`` block may wait, in seconds.
        """
        given: Dict[str, Any] = dict(settings or {})
        given.update(more)
        if log is not None:
            given["log"] = str(log)
        if listen is not None:
            given["listen"] = [listen] if isinstance(listen, str) else list(listen)
        self._settings = given
        self._page = page
        self._stop_timeout = stop_timeout
        self._hooks: Dict[str, Callable[..., Any]] = {}
        self._native: Optional[_klatch.Engine] = None
        for kind, hook in (("connect", on_connect), ("join", on_join), ("publish", on_publish)):
            if hook is not None:
                self._hook(kind, hook)

    def on_connect(self, hook: _C) -> _C:
        """Decides who may connect, and as which user. To be used as a decorator, before the engine starts."""
        self._hook("connect", hook)
        return hook

    def on_join(self, hook: _J) -> _J:
        """Decides who may join a room. To be used as a decorator, before the engine starts."""
        self._hook("join", hook)
        return hook

    def on_publish(self, hook: _P) -> _P:
        """Decides what clients may publish. What the program publishes itself does not pass through it."""
        self._hook("publish", hook)
        return hook

    def _hook(self, kind: str, hook: Any) -> None:
        if not callable(hook):
            raise TypeError(f"a hook is a function, not {type(hook).__name__}")
        if self._native is not None:
            raise RuntimeError("hooks are set before the engine starts")
        self._hooks[kind] = hook

    @property
    def _engine(self) -> _klatch.Engine:
        if self._native is None:
            raise Stopped("the engine has not been started")
        return self._native

    def _begin(self, wake: Optional[_klatch.Wake]) -> _klatch.Engine:
        """Starts; waits for that."""
        if wake is None and any(is_async(hook) for hook in self._hooks.values()):
            raise TypeError("async hooks need klatch.Engine, which runs in an event loop")
        try:
            settings = json.dumps(self._settings, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidConfig(f"a setting is no plain value: {error}") from None
        hooks = None
        if self._hooks:
            # The engine answers for hooks that are late; these are only cleaned up after, a little later.
            call = Hooks(dict(self._hooks), (timeout_of(self._settings) or 5.0) + 0.2)
            hooks = (call, "connect" in self._hooks or "join" in self._hooks, "publish" in self._hooks)
        _logging.look()
        return _klatch.Engine.start(settings, self._page, hooks, wake)

    def _began(self, native: _klatch.Engine) -> None:
        self._native = native
        _running.add(self)

    @property
    def addresses(self) -> List[str]:
        """Where it listens, as ``host:port``, in the order of the settings; ports that were 0 are filled in."""
        return self._engine.addresses()

    @property
    def url(self) -> str:
        """The WebSocket URL of its first address."""
        addresses = self.addresses
        if not addresses:
            raise RuntimeError("this engine does not listen: give it listen=")
        return f"ws://{addresses[0]}/ws"

    @property
    def health(self) -> str:
        """``up``, or why publishes are not stored: ``storage_full``, ``storage_failed``, ``log_damaged``, ``stopped``; with Kafka
        ``degraded`` or ``down``."""
        return "stopped" if self._native is None else self._native.health()

    def metrics(self) -> str:
        """The engine's numbers, in the text format of Prometheus."""
        return self._engine.metrics()

    def presence(self, room: str) -> Presence:
        """Who is in a room, on this node."""
        count, users, truncated = self._engine.presence(room)
        return Presence(count, [User(*user) for user in users], truncated)

    def signal(self, room: str, name: str, data: Any = None, *, user: str = "") -> None:
        """Delivers an event to a room's members without storing it."""
        self._engine.signal(room, user, name, _json(data))

    def send(self, connection: str, name: str, data: Any = None) -> None:
        """Delivers an event to one connection, by the id that events and hooks name, without storing it. Its client gets a signal
        without a room. Nothing happens if there is no such connection on this node."""
        self._engine.send(connection, name, _json(data))

    def kick(self, *, user: Optional[str] = None, connection: Optional[str] = None, room: Optional[str] = None) -> None:
        """Takes a connection, or a user's connections, out of a room, or, without a room, closes them and tells their clients not to
        come back."""
        self._engine.kick(user, connection, room)


def _json(data: Any) -> str:
    from ._data import encode

    text = encode(data)
    if isinstance(text, bytes):
        raise TypeError("the data of a signal is JSON, not bytes")
    return text


def _at_exit() -> None:
    """Stops what still runs, so that no thread of an engine calls an interpreter that ends."""
    for engine in list(_running):
        native, engine._native = engine._native, None
        if native is None:
            continue
        try:
            native.stop(1.0)
        except Exception:
            # Also where this is the child of a fork: then it is the parent's to stop.
            pass
    _klatch._flush_log(0.5)


atexit.register(_at_exit)
