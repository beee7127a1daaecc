"""The face that waits: scripts, threads, Ctrl-C."""

import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import klatch
from conftest import PATIENCE


def test_the_verbs():
    with klatch.testing.sync_engine() as engine:
        ack = engine.publish("lobby", {"a": 1}, user="ann", id="m1")
        assert ack.offset == 1
        with pytest.raises(klatch.Conflict):
            engine.publish("lobby", 2, user="ann", id="m1")
        outcomes = engine.publish_batch([("lobby", 2), ("", 3), ("lobby", b"4", "ann")])
        assert [type(o) for o in outcomes] == [klatch.Ack, klatch.InvalidName, klatch.Ack]
        with pytest.raises(TypeError):
            engine.publish_batch([("lobby", 1, "ann", "id", "more")])
        assert [p.data for p in engine.history("lobby")] == [{"a": 1}, 2, b"4"]
        with engine.subscribe("lobby", since=(ack.epoch, ack.offset)) as subscription:
            assert subscription.recovered
            assert next(subscription).data == 2 and subscription.position.offset == outcomes[0].offset
            assert [p.data for p in subscription.batch()] == [b"4"]
            assert subscription.batch(timeout=0.01) == []
        assert subscription.batch() is None and list(subscription) == []
        assert engine.events().next(0.01) is None
        assert engine.presence("lobby") == klatch.Presence(0, [], False)
        with pytest.raises(TypeError):
            klatch.sync.Engine(log="memory", on_join=_async_hook).start()
        with pytest.raises(klatch.Unsupported):
            engine.consume("archive", print)


async def _async_hook(request):
    return True


def test_threads_wait_without_holding_each_other_up():
    """What waits lets go of the interpreter's lock; a close or a stop from another thread ends it."""
    with klatch.sync.Engine(log="memory") as engine:
        got = []
        first = engine.subscribe("room")
        second = engine.subscribe("room")
        reader = threading.Thread(target=lambda: got.extend(p.data for p in first))
        other = threading.Thread(target=lambda: list(second))
        reader.start()
        other.start()
        writers = [
            threading.Thread(target=lambda: [engine.publish("room", n) for n in range(50)]) for _ in range(4)
        ]
        for t in writers:
            t.start()
        for t in writers:
            t.join(PATIENCE)
        with pytest.raises(RuntimeError):
            while True:
                first.batch(timeout=0.001)
        second.close()
        other.join(PATIENCE)
        assert not other.is_alive()
        engine.stop()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert len(got) >= 190


def until_it_waits(pid):
    """The main thread of the process is in a system call that waits for another thread."""
    futex = {"x86_64": "202", "aarch64": "98"}[platform.machine()]
    while Path(f"/proc/{pid}/syscall").read_text().split()[0] != futex:
        time.sleep(0.01)


@pytest.mark.parametrize("what", ["engine.serve_forever()", "next(engine.subscribe('room'))", "next(engine.events())"])
def test_x31_ctrl_c_ends_what_waits(what, tmp_path):
    code = f"""
import klatch, sys
with klatch.sync.Engine(log="memory", listen="127.0.0.1:0") as engine:
    try:
        print("ready", flush=True)
        {what}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print("stopped", engine.health)
"""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "ready\n"
    until_it_waits(program.pid)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=PATIENCE)
    assert (out, err, program.returncode) == ("interrupted\nstopped stopped\n", "", 0)
