"""What other native packages died or hung of: loops that were closed, forks, subinterpreters, the end of the interpreter."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

import klatch
from klatch import _klatch
from conftest import PATIENCE, run


def test_x28_a_panic_is_an_exception_and_others_go_on():
    """PyO3's own exception for a panic is none that `except Exception` catches."""

    async def main():
        async with klatch.Engine(log="memory") as engine, klatch.Engine(log="memory") as other:
            entries = [
                lambda: engine.publish("r", 1),
                lambda: engine.signal("r", "typing"),
                lambda: engine.presence("r"),
                lambda: engine.kick(user="ann"),
                lambda: engine.events(),
                lambda: engine.metrics(),
                lambda: engine.health,
                lambda: engine.addresses,
                lambda: engine._engine.subscribe("r", None, None, 0),
                lambda: engine._engine.history("r", 0, 0, 1, False, 0),
                lambda: engine._engine.publish_wait("r", "1", "", ""),
                lambda: engine._engine.publish_batch_wait([("r", "1", "", "")]),
                lambda: engine._engine.consume("g", False, 1, (1.0, 1.0), 1.0, []),
                lambda: _klatch.Engine.start("{}", None, None, None),
                lambda: _klatch.Wake(asyncio.get_running_loop().create_future),
                lambda: engine._engine.stop(1.0),
            ]
            subscription = engine._engine.subscribe("r", None, None, 0)
            here = _klatch.Wake(asyncio.get_running_loop().create_future)
            entries += [
                lambda: subscription.poll(here, 1),
                lambda: subscription.wait(1, 0.0),
                lambda: subscription.close(),
            ]
            for entry in entries:
                _klatch._panic_next()
                with pytest.raises(klatch.InternalError, match="a test asked for it"):
                    entry()
            # In a task of the loop: the others of the same turn are done all the same.
            unraisable = []
            sys.unraisablehook, hook = unraisable.append, sys.unraisablehook
            try:
                first, second = engine.publish("r", 1), engine.publish("r", 2)
                _klatch._panic_next()
                await second
            finally:
                sys.unraisablehook = hook
            assert [u.exc_type for u in unraisable] == [klatch.InternalError] and not first.done()
            assert (await engine.publish("r", 3)).offset == 3 and (await other.publish("r", 1)).offset == 1

    run(main())


def test_the_loop_is_closed_and_the_engine_goes_on():
    """A second `asyncio.run` is another loop: what waited in the first is gone, and hurts nobody."""
    engine = klatch.Engine(log="memory")
    left = []

    async def first():
        await engine.start()
        await engine.publish("room", 1)
        subscription = await engine.subscribe("room").__aenter__()
        left.append(subscription)
        left.append(asyncio.ensure_future(subscription.batch()))
        await asyncio.sleep(0)
        # Nobody waits for this one; its answer comes into a loop that is closed.
        left.append(engine.publish("room", 2))

    async def second():
        ack = await engine.publish("room", 3)
        assert [p.data for p in await engine.history("room")] == [1, 2, 3]
        # The subscription goes on in the loop that asks it now, with what it had not handed out.
        got = []
        while len(got) < 2:
            got += [p.data for p in await left[0].batch()]
        assert got == [2, 3]
        await engine.stop()
        return ack

    asyncio.run(first())
    asyncio.run(second())
    asyncio.run(_nothing())
    assert engine.health == "stopped"


async def _nothing():
    pass


def test_a_loop_in_another_thread():
    engine = klatch.Engine(log="memory")
    told = []

    async def main():
        async with engine:
            async with engine.subscribe("room") as subscription:
                told.append(asyncio.get_running_loop())
                ready.set()
                told.append([p.data for p in await subscription.batch()])

    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(PATIENCE)

    async def elsewhere():
        return await engine.publish("room", "from another loop")

    assert run(elsewhere()).offset == 1
    thread.join(PATIENCE)
    assert told[1] == ["from another loop"]


def test_uvloop():
    import uvloop

    async def main():
        async with klatch.testing.engine() as engine:
            async with engine.subscribe("room") as subscription:
                acks = await asyncio.gather(*(engine.publish("room", n) for n in range(1000)))
                assert [a.offset for a in acks] == list(range(1, 1001))
                got = []
                while len(got) < 1000:
                    got += await subscription.batch()
                assert [p.data for p in got] == list(range(1000))

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    finally:
        loop.close()


def test_cancelled_publishes_are_not_taken_back():
    async def main():
        async with klatch.Engine(log="memory") as engine:
            future = engine.publish("room", 1)
            future.cancel()
            await engine.publish("room", 2)
            assert [p.data for p in await engine.history("room")] == [1, 2]
            # An engine whose start is given up does not run on.
            starting = asyncio.ensure_future(klatch.Engine(log="memory").start())
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting

    run(main())


FORK = """
import asyncio, os, sys, klatch

def child(engine, subscription):
    for call in (
        lambda: engine.publish("room", 1), lambda: engine.history("room"), lambda: engine.health,
        lambda: next(subscription), lambda: engine.stop(), lambda: engine.signal("room", "x"),
    ):
        try:
            call()
        except klatch.ForkedError as e:
            assert isinstance(e, RuntimeError) and "fork" in str(e)
        else:
            os._exit(9)
    # Another one can be started there.
    with klatch.sync.Engine(log="memory", listen="127.0.0.1:0") as own:
        own.publish("room", 1)
    # And it ends as a program does, with destructors and atexit.
    sys.exit(7)

with klatch.sync.Engine(log="memory", listen="127.0.0.1:0") as engine:
    subscription = engine.subscribe("room")
    engine.publish("room", 0)
    pid = os.fork()
    if pid == 0:
        child(engine, subscription)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    assert engine.publish("room", 1).offset == 2
    assert next(subscription).data == 0
print("parent is well")
"""


def test_x29_a_child_gets_an_error_at_once(script):
    done = script(FORK)
    assert "parent is well" in done.stdout and done.returncode == 0, done.stderr


def test_x29_multiprocessing(script):
    done = script(
        """
        import multiprocessing, klatch

        def work(n):
            try:
                engine.publish("room", n)
            except klatch.ForkedError:
                return "forked"

        if __name__ == "__main__":
            with klatch.sync.Engine(log="memory") as engine:
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    assert pool.map(work, range(4)) == ["forked"] * 4
                assert engine.publish("room", 1).offset == 1
            print("well")
        """
    )
    assert done.stdout == "well\n" and done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["import klatch", ""], ids=["imported_before", "not_yet_imported"])
def test_x30_a_subinterpreter_cannot_import_it(script, first):
    done = script(
        f"""
        {first}
        import textwrap
        try:
            import _xxsubinterpreters as interpreters
        except ImportError:
            import _interpreters as interpreters
        code = textwrap.dedent('''
            for module in "klatch", "klatch._klatch":
                try:
                    __import__(module)
                except ImportError as e:
                    print(e, flush=True)
                else:
                    print("imported", flush=True)
        ''')
        for _ in range(3):
            sub = interpreters.create()
            interpreters.run_string(sub, code) if hasattr(interpreters, "run_string") else interpreters.exec(sub, code)
            interpreters.destroy(sub)
        import klatch
        with klatch.sync.Engine(log="memory") as engine:
            print(engine.publish("room", 1).offset)
        """
    )
    refused = "klatch cannot be used in a subinterpreter, only in the main interpreter of a process\n"
    assert done.stdout == refused * 6 + "1\n" and done.returncode == 0, done.stdout + done.stderr


EXIT = """
import asyncio, sys, threading, klatch, logging
logging.basicConfig(level=logging.DEBUG, stream=open("log.txt", "w"))
how = sys.argv[1]

async def main():
    engine = klatch.Engine(log="memory", listen="127.0.0.1:0")

    @engine.on_publish
    async def look(request):
        return True

    @engine.on_join
    def join(request):
        return True

    await engine.start()
    stop = threading.Event()

    # Clients that send all the time.
    def chat(n):
        import base64, os, socket, struct
        host, port = engine.addresses[0].rsplit(":", 1)
        s = socket.create_connection((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        s.sendall((f"GET /ws?room=r&user=u{n} HTTP/1.1\\r\\nHost: h\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
                   f"Sec-WebSocket-Key: {key}\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Protocol: klatch.v1\\r\\n\\r\\n").encode())
        s.recv(4096)
        text = b'{"type":"publish","data":1}'
        frame = bytes([0x81, 0x80 | len(text)]) + bytes(4) + text
        try:
            while True:
                s.sendall(frame)
                s.recv(65536)
        except OSError:
            pass

    for n in range(20):
        threading.Thread(target=chat, args=(n,), daemon=True).start()
    seen = 0
    subscription = engine.subscribe("r")
    def flood():
        while True:
            try:
                engine._engine.publish_wait("r", "1", "", "")
            except Exception:
                return
    threading.Thread(target=flood, daemon=True).start()
    async for p in subscription:
        seen += 1
        if seen > 50:
            if how == "exit":
                sys.exit(3)
            if how == "raise":
                raise ZeroDivisionError
            if how == "loop":
                asyncio.get_running_loop().call_soon(sys.exit, 3)
            if how == "end":
                return engine

engine = asyncio.run(main())
"""


@pytest.mark.parametrize("how, status", [("end", 0), ("exit", 3), ("raise", 1), ("loop", 3)])
def test_r24_the_interpreter_ends_with_the_engine_running(script, how, status):
    # KLATCH_EXIT_RUNS=50 for the 200 runs of the case.
    for _ in range(int(os.environ.get("KLATCH_EXIT_RUNS", 5))):
        done = script(EXIT, how)
        assert done.returncode == status, done.stderr
        assert "Fatal" not in done.stderr and "panicked" not in done.stderr
        assert ("ZeroDivisionError" in done.stderr) == (how == "raise")


def test_x35_only_the_module_is_exported():
    path = _klatch.__file__
    out = subprocess.run(["nm", "-D", path], capture_output=True, text=True, check=True).stdout
    defined = [line.split()[-1] for line in out.splitlines() if " T " in line or " D " in line or " B " in line]
    assert defined == ["PyInit__klatch"]
    foreign = [line for line in out.splitlines() if " U " in line and line.split()[-1].startswith(("SSL_", "EVP_", "rd_"))]
    assert foreign == []


def test_engines_come_and_go_and_memory_stays(script):
    done = script(
        """
        import asyncio, gc, klatch, os, resource

        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

        async def one(n):
            async with klatch.Engine(log="memory", listen="127.0.0.1:0", shards=1) as engine:
                subscription = engine.subscribe("room", since=0)
                await engine.publish("room", "x" * 1000)
                async for p in subscription:
                    break

        async def some(count):
            for n in range(count):
                await one(n)

        asyncio.run(some(200))
        gc.collect()
        before, threads = resident(), len(os.listdir("/proc/self/task"))
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(8):
            asyncio.run(some(100))
        gc.collect()
        after = resident()
        assert len(os.listdir("/proc/self/fd")) <= descriptors, os.listdir("/proc/self/fd")
        assert len(os.listdir("/proc/self/task")) <= threads, os.listdir("/proc/self/task")
        print(f"{before:.1f} {after:.1f}")
        """
    )
    assert done.returncode == 0, done.stderr
    before, after = map(float, done.stdout.split())
    # 800 engines: 8 MiB are 10 KiB each, less than one of them takes.
    assert after - before < 8, done.stdout
