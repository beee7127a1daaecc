"""The engine's log, in the module ``logging``: loggers below ``klatch``, at the levels that ``klatch`` has when an engine starts."""

from __future__ import annotations

import logging
from typing import List, Tuple

from . import _klatch

logger = logging.getLogger("klatch")


def look() -> None:
    """Has the engine make records of those levels only that somebody wants to see."""
    level = logger.getEffectiveLevel()
    _klatch._log_level(min(max(level, 0), 255))


def give(lines: List[Tuple[int, str, str]], lost: int) -> None:
    """Takes records; called on a thread of their own."""
    broken = None
    if lost:
        lines.append((logging.WARNING, "klatch", f"{lost} records of the log were lost"))
    for level, name, text in lines:
        log = logging.getLogger(name)
        try:
            if log.isEnabledFor(level):
                log.log(level, "%s", text)
        except Exception as error:
            # A handler's fault is not that of the next record.
            broken = error
    look()
    if broken is not None:
        raise broken
