"""Whether this is the main interpreter of the process.

The engine's threads call the interpreter that they find first, and what the native half keeps for good belongs to one. PyO3 leaves
it to its modules to say so, which must come before anything of the native half has been made.
"""

from __future__ import annotations

import _thread
from importlib import import_module


def is_main() -> bool:
    """Whether it is; ``True`` where Python has no others."""
    try:
        return bool(_thread._is_main_interpreter())  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:
        # Before Python 3.13.
        pass
    try:
        interpreters = import_module("_xxsubinterpreters")
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


if not is_main():
    raise ImportError("klatch cannot be used in a subinterpreter, only in the main interpreter of a process")
