"""For the tests of programs that embed klatch: an engine on a log and a port of its own, which are gone afterwards.

::

    async with klatch.testing.engine() as engine:
        ...  # connect to engine.url
"""

from __future__ import annotations

import os
import tempfile
from contextlib import asynccontextmanager, contextmanager
from typing import Any, AsyncIterator, Dict, Iterator

from . import sync as _sync
from ._asyncio import Engine

__all__ = ["engine", "sync_engine"]


def _arguments(folder: str, given: Dict[str, Any]) -> Dict[str, Any]:
    # Inside, so that the view of a Kafka topic can lie beside it.
    return {"log": os.path.join(folder, "log"), "listen": "127.0.0.1:0", **given}


@asynccontextmanager
async def engine(**settings: Any) -> AsyncIterator[Engine]:
    """An engine that runs, with a log in a temporary folder and a free port; ``settings`` as for :class:`klatch.Engine`."""
    with tempfile.TemporaryDirectory(prefix="klatch-") as folder:
        async with Engine(**_arguments(folder, settings)) as running:
            yield running


@contextmanager
def sync_engine(**settings: Any) -> Iterator[_sync.Engine]:
    """The same for scripts and threads."""
    with tempfile.TemporaryDirectory(prefix="klatch-") as folder:
        with _sync.Engine(**_arguments(folder, settings)) as running:
            yield running
