"""What can go wrong, as exceptions.

Every one of the engine's is a :class:`KlatchError` with the numbers and names that all faces of klatch share (docs/codes.md). What
to do about one is its class, and its :attr:`~KlatchError.retry`:

- :class:`NotStored`: the message was certainly not stored; nobody will ever see it. Most are of a narrower class.
- :class:`OutcomeUnknown`: it may have been stored. Publish it again with the same id.
"""

from __future__ import annotations

from typing import Dict, Type

__all__ = [
    "AddressUnusable",
    "Busy",
    "Conflict",
    "DataDirLocked",
    "DataDirUnusable",
    "Denied",
    "ForkedError",
    "HookTimeout",
    "InternalError",
    "InvalidConfig",
    "InvalidData",
    "InvalidId",
    "InvalidName",
    "InvalidRequest",
    "KlatchError",
    "LogDamaged",
    "NotStored",
    "OutcomeUnknown",
    "RateLimited",
    "Stopped",
    "Stopping",
    "StorageFailed",
    "StorageFull",
    "SubscriptionEnded",
    "Timeout",
    "TooDeep",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "WouldDeadlock",
]


class KlatchError(Exception):
    """An error of the engine."""

    #: The number that all faces of klatch share.
    code: int = 502
    #: The name that all faces of klatch share.
    name: str = "internal"
    #: What to do: ``later``, ``never``, ``same_id``, ``forbidden`` or ``operator``.
    retry: str = "operator"
    #: When a retry may succeed, in seconds; 0 where retrying does not help by itself.
    retry_after: float = 0.0

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        #: The text, for people.
        self.message = message

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


class NotStored(KlatchError):
    """The request was not carried out; a message was certainly not stored."""


class OutcomeUnknown(KlatchError):
    """The message may have been stored: publish it again with the same id, and the answer will be the same for both."""

    code, name, retry = 300, "outcome_unknown", "same_id"


class Busy(NotStored):
    """A queue is full."""

    code, name, retry = 100, "busy", "later"


class Unavailable(NotStored):
    """This part of the engine cannot answer now."""

    code, name, retry = 101, "unavailable", "later"


class StorageFull(NotStored):
    """The disk is full, or the process may open no more files. Reads go on, and publishing recovers when there is room."""

    code, name, retry = 102, "storage_full", "later"


class RateLimited(NotStored):
    """A connection sent faster than its limit."""

    code, name, retry = 103, "rate_limited", "later"


class HookTimeout(NotStored):
    """A hook did not answer within ``limits.hook_timeout_ms``."""

    code, name, retry = 104, "hook_timeout", "later"


class Stopping(NotStored):
    """The engine is stopping."""

    code, name, retry = 105, "stopping", "later"


class Timeout(NotStored):
    """A publish waited longer than ``limits.publish_timeout_ms`` before it was written."""

    code, name, retry = 106, "timeout", "later"


class InvalidRequest(NotStored, ValueError):
    """The request itself is wrong; made again unchanged it fails again."""

    code, name, retry = 200, "bad_request", "never"


class InvalidName(InvalidRequest):
    """A room, user or event name is empty, too long, or has control characters."""

    code, name = 202, "invalid_name"


class InvalidData(InvalidRequest):
    """The data is not what a message may hold: text with a lone surrogate, NaN or an infinity."""

    code, name = 203, "invalid_data"


class TooLarge(InvalidRequest):
    """The message is larger than ``limits.message_bytes``."""

    code, name = 204, "too_large"


class TooDeep(InvalidRequest):
    """The data is nested deeper than ``limits.json_depth``."""

    code, name = 205, "too_deep"


class Conflict(InvalidRequest):
    """This message id was already used by this user in this room for another body."""

    code, name = 206, "conflict"


class InvalidId(InvalidRequest):
    """A message id is empty, too long, has control characters, or begins with ``~``."""

    code, name = 211, "invalid_id"


class Unsupported(InvalidRequest):
    """This engine, as it is configured, cannot do that."""

    code, name = 212, "unsupported"


class Unauthorized(KlatchError):
    """A connection's credentials were refused."""

    code, name, retry = 400, "unauthorized", "forbidden"


class Denied(KlatchError):
    """A hook refused a request."""

    code, name, retry = 401, "denied", "forbidden"


class StorageFailed(NotStored):
    """A sync or write of the log failed. Nothing more is stored until the engine is started again; reads go on."""

    code, name = 500, "storage_failed"


class LogDamaged(NotStored):
    """The log has damage that nobody has accepted yet."""

    code, name = 501, "log_damaged"


class InternalError(KlatchError):
    """A fault in klatch itself."""

    code, name = 502, "internal"


class DataDirLocked(KlatchError):
    """Another engine has this data directory open."""

    code, name = 503, "data_dir_locked"


class Stopped(NotStored):
    """The engine has been stopped."""

    code, name = 504, "stopped"


class WouldDeadlock(KlatchError):
    """The call would wait for the very thread that it is made on."""

    code, name = 505, "would_deadlock"


class InvalidConfig(KlatchError, ValueError):
    """A setting is wrong."""

    code, name = 510, "invalid_config"


class AddressUnusable(KlatchError, OSError):
    """A listen address cannot be bound, for instance because the port is in use."""

    code, name = 511, "address_unusable"


class DataDirUnusable(KlatchError, OSError):
    """The data directory cannot be created, read or written."""

    code, name = 512, "data_dir_unusable"


class ForkedError(KlatchError, RuntimeError):
    """The engine was started before ``os.fork()``, and this is the child: it has none of the engine's threads. Start one after it."""

    code, name = 502, "forked"


class SubscriptionEnded(KlatchError):
    """A subscription that cannot go on, and why; :attr:`why` is one of

    - ``slow``: it was not read, and its queue passed its bound. Subscribe again since its last position.
    - ``dropped``: retention has dropped what it had yet to read.
    - ``unreadable``: the history that it had yet to read cannot be read; the log tells why.
    - ``reset``: the log was replaced by another one, a Kafka topic that was created again. Old positions mean nothing.
    """

    code, name, retry = 213, "ended", "never"
    #: The word for it.
    why: str = ""


_BY_NAME: Dict[str, Type[KlatchError]] = {
    c.name: c
    for c in list(globals().values())
    if isinstance(c, type) and issubclass(c, KlatchError) and c not in (KlatchError, NotStored, ForkedError)
}


def _class_of(code: int, name: str) -> Type[KlatchError]:
    """The class of a code; of one that this version has no class for, that of its hundred."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    return {1: NotStored, 2: InvalidRequest, 3: OutcomeUnknown}.get(code // 100, KlatchError)


def _error(code: int, name: str, retry: str, message: str, retry_after_ms: int) -> KlatchError:
    """An exception from the parts of the engine's error."""
    error = _class_of(code, name)(message)
    error.code, error.name, error.retry, error.retry_after = code, name, retry, retry_after_ms / 1000
    return error


def _forked() -> ForkedError:
    return ForkedError("this engine was started before fork(), and belongs to the parent; start one in the child")


def _ended(why: str) -> SubscriptionEnded:
    error = SubscriptionEnded(f"the subscription cannot go on: {why}")
    error.why = why
    return error
