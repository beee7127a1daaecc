"""Measures the package beside the Rust API, and beside python-socketio doing the same job. See docs/performance.md.

    pip install klatch python-socketio uvicorn
    python bench.py ../../target/release/host-rates [--seconds 2] [--rounds 3]

Every round measures all of them, one after the other, so that a machine that changes its pace changes it for all. Medians are printed.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import klatch

HERE = Path(__file__).parent
DATA = {"text": "hello, this is a message as people write them"}
TEXT = klatch.Json(json.dumps(DATA, separators=(",", ":")))
ROOM = {"event_queue": 4_000_000, "subscription_bytes": 1 << 30, "publish_rate": 0, "request_rate": 0}
CLIENTS = 8


async def publishes(seconds, log, in_flight=100):
    """Awaited publishes in a second, so many in flight; and the microseconds of processor that each took, in all threads."""
    async with klatch.Engine(log=log) as engine:
        start, count, used = time.perf_counter(), 0, time.process_time()

        async def one():
            nonlocal count
            while time.perf_counter() - start < seconds:
                await engine.publish("publish", DATA)
                count += 1

        await asyncio.gather(*(one() for _ in range(in_flight)))
        return count / (time.perf_counter() - start), (time.process_time() - used) / count * 1e6


async def events(seconds):
    """Events in a second into an async handler, in batches. A thread of the same program publishes them, as long as they last."""
    async with klatch.Engine(log="memory", limits=ROOM) as engine:
        async with engine.subscribe("events") as subscription:
            start = time.perf_counter()

            def flood():
                batch = [("events", TEXT, "", "")] * 512
                while time.perf_counter() - start < seconds:
                    engine._engine.publish_batch_wait(batch)
                engine._engine.publish_wait("events", "null", "", "")

            count = 0

            async def handler(batch):
                nonlocal count
                for p in batch:
                    count += 1
                return p.raw != b"null"

            publisher = threading.Thread(target=flood)
            publisher.start()
            async for batch in subscription.batches():
                if not await handler(batch):
                    break
            took = time.perf_counter() - start
            publisher.join()
            return count / took


def p99(values):
    return statistics.quantiles(values, n=100)[98]


class Lateness:
    """How late a task is that wants its turn every millisecond, and how much of the processor its loop used meanwhile: what is more in the
    first was spent waiting for a processor."""

    def __init__(self):
        self.late, self.used = [], []

    async def __aenter__(self):
        self.task = asyncio.ensure_future(self.tick())
        return self

    async def tick(self):
        while True:
            due, before = time.perf_counter() + 0.001, time.thread_time()
            await asyncio.sleep(0.001)
            self.late.append((time.perf_counter() - due) * 1000)
            self.used.append((time.thread_time() - before) * 1000)

    async def __aexit__(self, *error):
        self.task.cancel()

    def p99(self):
        return p99(self.late), p99(self.used)


async def load(kind, address, rate, seconds):
    arguments = [kind, address, str(CLIENTS), str(rate), str(seconds)]
    program = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "load.py"), *arguments, stdout=subprocess.PIPE
    )
    out, _ = await program.communicate()
    return int(out or 0)


async def chat(seconds, rate):
    """Messages of clients that an async handler has seen in a second, each of which goes to its room's member; and the lateness."""
    async with klatch.testing.engine(log="memory", limits={**ROOM, "pending_publishes": 1024}) as engine:
        count = 0

        async def handle(n):
            nonlocal count
            async with engine.subscribe(f"room{n}") as subscription:
                async for batch in subscription.batches():
                    for p in batch:
                        count += len(p.raw) > 0

        handlers = [asyncio.ensure_future(handle(n)) for n in range(CLIENTS)]
        await asyncio.sleep(0.1)
        async with Lateness() as lateness:
            start = time.perf_counter()
            await load("klatch", engine.addresses[0], rate, seconds)
            took = min(time.perf_counter() - start, seconds)
        for h in handlers:
            h.cancel()
        return count / took, *lateness.p99()


async def idle(seconds):
    """The lateness in a loop in which nothing else happens: the machine's own."""
    async with Lateness() as lateness:
        await asyncio.sleep(seconds)
    return lateness.p99()[0]


async def socketio(seconds, rate):
    """The same job by python-socketio: the handler sees each message and sends it to its room."""
    import socketio
    import uvicorn

    server = socketio.AsyncServer(async_mode="asgi")
    count = 0

    @server.event
    async def connect(sid, environ):
        await server.enter_room(sid, f"room{sid}")

    @server.event
    async def message(sid, data):
        nonlocal count
        count += len(data) > 0
        await server.emit("message", data, room=f"room{sid}")

    config = uvicorn.Config(socketio.ASGIApp(server), port=0, log_level="error", lifespan="off")
    site = uvicorn.Server(config)
    serving = asyncio.ensure_future(site.serve())
    while not site.started:
        await asyncio.sleep(0.01)
    port = site.servers[0].sockets[0].getsockname()[1]
    async with Lateness() as lateness:
        start = time.perf_counter()
        await load("socketio", f"127.0.0.1:{port}", rate, seconds)
        took = min(time.perf_counter() - start, seconds)
    seen = count
    site.force_exit = site.should_exit = True
    await serving
    return seen / took, *lateness.p99()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rust")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    rows = []
    for _ in range(a.rounds):
        rust = json.loads(subprocess.run([a.rust, str(a.seconds)], capture_output=True, check=True).stdout)
        row = {"rust publishes/s": rust["publish"], "rust events/s": rust["events"]}
        row["publishes/s, 100 in flight"], row["publish: processor us"] = asyncio.run(publishes(a.seconds, "memory"))
        with tempfile.TemporaryDirectory() as log:
            on_disk = asyncio.run(publishes(a.seconds, log))
            row["publishes/s, 100 in flight, on disk"], row["publish on disk: processor us"] = on_disk
        row["events/s into an async handler"] = asyncio.run(events(a.seconds))
        row["idle: p99 lateness ms"] = asyncio.run(idle(a.seconds))
        seen, late, used = asyncio.run(chat(a.seconds, 50_000))
        row |= {"chat at 50,000/s: seen/s": seen, "chat at 50,000/s: p99 lateness ms": late}
        row["chat at 50,000/s: p99 of the loop's own work ms"] = used
        row["chat flat out: seen/s"], *_ = asyncio.run(chat(a.seconds, 0))
        seen, late, _ = asyncio.run(socketio(a.seconds, 0))
        row |= {"python-socketio flat out: seen/s": seen, "python-socketio: p99 lateness ms": late}
        rows.append(row)
        print(json.dumps({k: round(v, 2) for k, v in row.items()}), flush=True)
    print()
    for name in rows[0]:
        print(f"{name:50} {statistics.median(r[name] for r in rows):12,.2f}")


if __name__ == "__main__":
    main()
