"""What happens in an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple, Union

__all__ = ["Connected", "Disconnected", "Event", "Joined", "Left", "Lost", "Storage"]


@dataclass(frozen=True)
class Connected:
    """A connection was let in."""

    #: Its id.
    connection: str
    #: Its user; empty for an anonymous one.
    user: str
    #: Its address, as ``host:port``.
    address: str


@dataclass(frozen=True)
class Disconnected:
    """A connection that had been let in has ended."""

    #: Its id.
    connection: str
    #: Its user.
    user: str
    #: Why the engine closed it (docs/codes.md); none if the client did, or the network.
    why: Optional[str]


@dataclass(frozen=True)
class Joined:
    """A connection has become a member of a room."""

    #: Its id.
    connection: str
    #: Its user.
    user: str
    #: The room.
    room: str


@dataclass(frozen=True)
class Left:
    """A connection is no longer a member of a room."""

    #: Its id.
    connection: str
    #: Its user.
    user: str
    #: The room.
    room: str


@dataclass(frozen=True)
class Storage:
    """Storing has become impossible, or possible again."""

    #: Why publishes are refused (the name of a code); none if they are stored again.
    refusing: Optional[str]


@dataclass(frozen=True)
class Lost:
    """So many events were lost here, because they were not read."""

    #: How many.
    count: int


#: One of them.
Event = Union[Connected, Disconnected, Joined, Left, Storage, Lost]

_KINDS: Any = {
    "connected": Connected,
    "disconnected": Disconnected,
    "joined": Joined,
    "left": Left,
    "storage": Storage,
    "lost": Lost,
}


def made(tuples: List[Tuple[Any, ...]]) -> List[Event]:
    """From what the native half gives; kinds that this version does not know are left out."""
    return [_KINDS[kind](*fields) for kind, *fields in tuples if kind in _KINDS]
