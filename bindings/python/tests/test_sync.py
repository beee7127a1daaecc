"""The face that waits: scripts, threads, Ctrl-C."""

import platform
import signal
import threading
import time
from pathlib import Path

import pytest

import klatch
from conftest import PATIENCE, begin


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
        with engine.subscribe_all() as everything:
            ack = engine.publish("hall", 5)
            assert [(p.room, p.offset) for p in everything.batch()] == [("hall", ack.offset)]
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

        def read():
            while True:
                try:
                    batch = first.batch()
                except RuntimeError:
                    # The thread below has it just now.
                    continue
                if batch is None:
                    return
                got.extend(p.data for p in batch)

        reader = threading.Thread(target=read)
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
        with pytest.raises(RuntimeError, match="read elsewhere"):
            while True:
                got.extend(p.data for p in first.batch(timeout=0.001))
                # Else the other thread would run only while this one waits, with the subscription in its hand.
                time.sleep(0.001)
        second.close()
        other.join(PATIENCE)
        assert not other.is_alive()
        engine.stop()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        # Each was read once, by one of them.
        assert sorted(got) == sorted(4 * list(range(50)))


def until_it_waits(program):
    """Its main thread is in a system call that waits for another thread."""
    futex = {"x86_64": "202", "aarch64": "98"}[platform.machine()]
    while Path(f"/proc/{program.pid}/syscall").read_text().split()[0] != futex:
        assert program.poll() is None, program.stderr.read()
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
    program = begin("-c", code)
    try:
        assert program.stdout.readline() == "ready\n"
        until_it_waits(program)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=PATIENCE)
    finally:
        program.kill()
        program.wait()
    assert (out, err, program.returncode) == ("interrupted\nstopped stopped\n", "", 0)
