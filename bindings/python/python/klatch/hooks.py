"""Hooks: what your program decides.

A hook is a function, plain or ``async``. A plain one runs on one of four threads and may block; an ``async`` one runs in the loop
that the engine was started in. It has ``limits.hook_timeout_ms`` (5 s by default) to answer; later the request fails with
``hook_timeout`` and a hook that is still at work is cancelled if it is ``async``. An exception is logged, and its request fails with
``internal``; so does one whose hook returns nothing, so that a forgotten ``return`` lets nobody in.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any, Awaitable, Callable, Dict, Optional, Set, Union

from . import _data
from ._klatch import Answer, ConnectRequest, JoinRequest, PublishRequest

__all__ = [
    "ConnectHook",
    "ConnectRequest",
    "Deny",
    "JoinHook",
    "JoinRequest",
    "PublishHook",
    "PublishRequest",
    "Replace",
]

_log = logging.getLogger("klatch.hooks")


class Deny(Exception):
    """No; the text goes to the client. To be raised or returned."""

    def __init__(self, message: str = "not allowed") -> None:
        super().__init__(message)
        #: What the client is told.
        self.message = message


class Replace:
    """Yes, but store this instead. A retry with the same id must be given the same, or it is a conflict."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        #: What is stored.
        self.data = data


#: Lets a connection in as the user that it returns (``""``: anonymous), or returns or raises :class:`Deny`.
ConnectHook = Callable[[ConnectRequest], Union[str, Deny, Awaitable[Union[str, Deny]]]]
#: Returns whether the connection may join.
JoinHook = Callable[[JoinRequest], Union[bool, Deny, Awaitable[Union[bool, Deny]]]]
#: Returns whether the message is stored, or :class:`Replace`.
PublishHook = Callable[[PublishRequest], Union[bool, Deny, Replace, Awaitable[Union[bool, Deny, Replace]]]]


def is_async(hook: Callable[..., Any]) -> bool:
    """Whether a hook must be called in a loop."""
    call = getattr(hook, "__call__", None)
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(call)


class Hooks:
    """The hooks of an engine, as its native half calls them."""

    def __init__(self, hooks: Dict[str, Callable[..., Any]], timeout: float) -> None:
        self._hooks = hooks
        self._timeout = timeout
        self._tasks: Set["asyncio.Task[None]"] = set()

    def is_async(self, kind: str) -> bool:
        hook = self._hooks.get(kind)
        return hook is not None and is_async(hook)

    def __call__(self, kind: str, request: Any, answer: Answer) -> None:
        hook = self._hooks.get(kind)
        if hook is None:
            # There is one for connects or joins, but not for this: then everybody may.
            answer.allow(request.user)
        elif is_async(hook):
            task = asyncio.get_running_loop().create_task(self._run(kind, hook, request, answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            outcome: Any = None
            try:
                outcome = hook(request)
            except Deny as deny:
                outcome = deny
            except BaseException as error:
                # SystemExit too: a hook does not end the program.
                _log.error("the %s hook raised an exception", kind, exc_info=error)
                answer.drop()
                return
            self._answer(kind, outcome, answer)

    async def _run(self, kind: str, hook: Callable[..., Any], request: Any, answer: Answer) -> None:
        outcome: Any = None
        # Not `wait_for`, whose TimeoutError would be the same as one of the hook's own.
        asked = asyncio.ensure_future(hook(request))
        try:
            await asyncio.wait([asked], timeout=self._timeout)
            if not asked.done():
                # The engine has answered in its place.
                asked.cancel()
                _log.warning("the %s hook did not answer in time; it is cancelled", kind)
                return
            outcome = asked.result()
        except Deny as deny:
            outcome = deny
        except asyncio.CancelledError:
            asked.cancel()
            answer.drop()
            raise
        except Exception as error:
            _log.error("the %s hook raised an exception", kind, exc_info=error)
            answer.drop()
            return
        self._answer(kind, outcome, answer)

    @staticmethod
    def _answer(kind: str, outcome: Any, answer: Answer) -> None:
        try:
            if isinstance(outcome, Deny):
                answer.deny(str(outcome.message))
            elif outcome is False:
                answer.deny("not allowed")
            elif kind == "connect" and isinstance(outcome, str):
                answer.allow(outcome)
            elif kind != "connect" and outcome is True:
                answer.allow("")
            elif kind == "publish" and isinstance(outcome, Replace):
                answer.replace(_data.encode(outcome.data))
            else:
                what = "nothing" if outcome is None else f"{type(outcome).__name__}"
                _log.error("the %s hook returned %s, which is no answer", kind, what)
        except Exception as error:
            _log.error("the answer of the %s hook cannot be given", kind, exc_info=error)
        finally:
            # Nothing, if an answer was given.
            answer.drop()


def timeout_of(settings: Dict[str, Any]) -> Optional[float]:
    """The hooks' timeout that the settings say, in seconds."""
    limits = settings.get("limits")
    ms = limits.get("hook_timeout_ms") if isinstance(limits, dict) else None
    return ms / 1000 if isinstance(ms, (int, float)) else None
