"""What the tests share. Nothing here waits by the clock for something to have happened."""

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest

#: Against hanging; nothing is measured by it.
PATIENCE = 60


def run(main):
    """Carries out a coroutine in a loop of its own."""
    return asyncio.run(asyncio.wait_for(main, PATIENCE))


@pytest.fixture
def script(tmp_path):
    """Runs a program in a process of its own; returns what it printed and its status."""

    def start(code, *args, env=None, **more):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(code))
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", str(path), *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            **more,
        )

    return start


@pytest.fixture
def kafka():
    """The address of a topic without its name."""
    # Started, and ended, by bindings/python/test.
    return os.environ["KLATCH_TEST_KAFKA"]
