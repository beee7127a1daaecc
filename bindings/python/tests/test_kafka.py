"""The same engine on Kafka: a real one, which a program of the workspace starts."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import klatch
from conftest import PATIENCE, run
from scenarios import world
from test_scenarios import Awaits, all_of_them, runs_on

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def kafka():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "release" / "kafka-cluster"
    if not program.exists():
        pytest.skip("target/release/kafka-cluster is not built")
    cluster = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield cluster.stdout.readline().strip()
    finally:
        cluster.stdin.close()
        cluster.wait(PATIENCE)


SLOW = {"limits": {"publish_timeout_ms": 60_000}}


def settings(kafka, topic, folder):
    return {
        "log": kafka + topic,
        "kafka": {"view_dir": str(folder / "view"), "partitions": 3, "message_timeout_ms": 50_000},
        **SLOW,
    }


def test_two_engines_are_one_chat(kafka, tmp_path):
    async def main():
        one = klatch.Engine(settings(kafka, "chat", tmp_path / "1"))
        two = klatch.Engine(settings(kafka, "chat", tmp_path / "2"))
        async with one, two:
            async with two.subscribe("lobby", since=0) as subscription:
                acks = [await e.publish("lobby", n, user="ann", id=f"m{n}") for n, e in enumerate((one, two, one))]
                got = []
                while len(got) < 3:
                    got += await subscription.batch()
                assert [p.data for p in got] == [0, 1, 2]
                assert [p.offset for p in got] == [a.offset for a in acks]
                again = await two.publish("lobby", 0, user="ann", id="m0")
                assert again.duplicate and again.offset == acks[0].offset

    run(main())


def test_a_consumer_commits_what_was_done_and_no_more(kafka, tmp_path):
    async def main():
        async with klatch.Engine(settings(kafka, "work", tmp_path)) as engine:
            for n in range(20):
                await engine.publish("room", n)
            seen = []
            with pytest.raises(ZeroDivisionError):
                async with engine.consume("archive") as work:
                    async for p in work:
                        if p.data == 7:
                            raise ZeroDivisionError
                        seen.append(p.data)
            assert seen == list(range(7))
            async with engine.consume("archive") as work:
                async for p in work:
                    if p.data == 9 and 9 not in seen:
                        work.retry("once more")
                        seen.append(9)
                        continue
                    seen.append(p.data)
                    if p.data == 19:
                        assert work.status()["partitions"] == 3 and work.status()["retries"] >= 1
                        break
            assert seen == [*range(7), 7, 8, 9, 9, *range(10, 20)]
            await engine.publish("room", 20)
            async with engine.consume("archive") as work:
                # The block before ended well, so its last one is committed.
                assert (await work.__anext__()).data == 20

    run(main())


def test_the_archive_example(kafka, tmp_path):
    database = tmp_path / "chats.sqlite"
    program = [sys.executable, str(ROOT / "examples/python/archive.py"), kafka + "archived", str(database)]

    async def publish():
        async with klatch.Engine(settings(kafka, "archived", tmp_path)) as engine:
            for n in range(50):
                await engine.publish(f"room-{n % 5}", {"n": n}, user="ann")

    run(publish())
    archive = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert archive.stdout.readline().startswith("at work")

        async def stored():
            while True:
                try:
                    with sqlite3.connect(database) as reader:
                        rows = reader.execute("SELECT room, data FROM messages ORDER BY room, place").fetchall()
                except sqlite3.OperationalError:
                    rows = []
                if len(rows) == 50:
                    return rows
                await asyncio.sleep(0.05)

        rows = run(stored())
        assert [json.loads(d)["n"] for room, d in rows if room == "room-3"] == list(range(3, 50, 5))
        archive.send_signal(2)
        out, err = archive.communicate(timeout=PATIENCE)
        assert (archive.returncode, err) == (0, "")
    finally:
        archive.kill()
        archive.wait()


# The Rust suite plays all of them on Kafka; these show that the face changes nothing there.
@pytest.mark.parametrize(
    "name, scenario",
    [pytest.param(n, s, id=n) for n, s in all_of_them() if n.startswith(("host/", "publish/")) and runs_on(s, "kafka")],
)
def test_scenario(name, scenario, kafka, tmp_path):
    given = dict(scenario.get("settings", {}))
    ours = settings(kafka, name.replace("/", "."), tmp_path)
    given["limits"] = {**ours.pop("limits"), **given.get("limits", {})}
    host = Awaits()
    try:
        everything = {**given, **ours, "listen": ["127.0.0.1:0"], "shards": 1}
        world.World(host, everything, scenario.get("hooks", False)).play(scenario["steps"])
    finally:
        host.end_loop()
