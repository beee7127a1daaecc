"""What the tests share. Nothing here waits by the clock for something to have happened."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

#: Against hanging; nothing is measured by it.
PATIENCE = 60


def run(main):
    """Carries out a coroutine in a loop of its own."""
    return asyncio.run(asyncio.wait_for(main, PATIENCE))


def begin(*command, **more):
    """A program of its own that Ctrl-C reaches, though the tests themselves may run where it is ignored."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **more,
    )


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
