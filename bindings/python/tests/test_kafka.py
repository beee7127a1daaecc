"""The same engine on Kafka: a real one, that `bindings/python/test` starts. Every test has topics of its own."""

import asyncio
import itertools
import json
import signal
import sqlite3
from pathlib import Path

import pytest

import klatch
from conftest import PATIENCE, begin, run
from scenarios import world
from test_scenarios import Awaits, all_of_them, runs_on

ROOT = Path(__file__).parents[3]
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

    async def publish():
        # With as many partitions as there are where nobody says otherwise, the example among them.
        async with klatch.Engine(log=kafka + "archived", kafka={"view_dir": "memory"}) as engine:
            for n in range(50):
                await engine.publish(f"room-{n % 5}", {"n": n}, user="ann")

    run(publish())
    archive = begin(ROOT / "examples/python/archive.py", kafka + "archived", database)
    try:
        assert archive.stdout.readline().startswith("at work"), archive.stderr.read()

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
        archive.send_signal(signal.SIGINT)
        out, err = archive.communicate(timeout=PATIENCE)
        assert archive.returncode == 0 and "Traceback" not in err, err
    finally:
        archive.kill()
        archive.wait()


@pytest.mark.parametrize(
    "name, scenario", [pytest.param(n, s, id=n) for n, s in all_of_them() if runs_on(s, "kafka")]
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


OTHERS = """
import {order}
import asyncio, socket, sys, threading
import confluent_kafka.admin, klatch, ssl, trustme

address = sys.argv[1]
authority = trustme.CA()
authority.cert_pem.write_to_path("authority.pem")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("127.0.0.1").configure_cert(context)

class Relay:
    # Takes the encryption off what comes, and passes it on to Kafka and back.
    def __init__(self):
        self.answered = threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.server.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            threading.Thread(target=self.serve, args=(self.server.accept()[0],), daemon=True).start()

    def serve(self, plain):
        host, port = address.split(":")
        try:
            with context.wrap_socket(plain, server_side=True) as inner, socket.create_connection((host, port)) as outer:
                # A TLS socket is not for two threads: requests first, then as much as comes in answer.
                while request := inner.recv(65536):
                    outer.sendall(request)
                    inner.sendall(outer.recv(65536))
                    self.answered.set()
        except OSError:
            pass

TLS = {{"security.protocol": "ssl", "ssl.ca.location": "authority.pem"}}
done = []

def theirs():
    relay = Relay()
    admin = confluent_kafka.admin.AdminClient({{"bootstrap.servers": relay.address, "log_level": 0, **TLS}})
    assert relay.answered.wait(60)
    done.append("their TLS")

def theirs_plain():
    admin = confluent_kafka.admin.AdminClient({{"bootstrap.servers": address}})
    admin.create_topics([confluent_kafka.admin.NewTopic("{topic}", 1, 1)])["{topic}"].result(60)
    producer = confluent_kafka.Producer({{"bootstrap.servers": address}})
    for n in range(100):
        producer.produce("{topic}", key="room", value=str(n))
    assert producer.flush(60) == 0
    consumer = confluent_kafka.Consumer(
        {{"bootstrap.servers": address, "group.id": "theirs", "auto.offset.reset": "earliest"}})
    consumer.assign([confluent_kafka.TopicPartition("{topic}", 0, 0)])
    got = 0
    while got < 100:
        message = consumer.poll(60)
        assert message is not None and message.error() is None, message
        got += 1
    consumer.close()
    done.append("theirs")

def ours():
    relay = Relay()
    kafka = {{"view_dir": "memory", "properties": TLS, "start_timeout_ms": 1000}}
    engine = klatch.sync.Engine(log=f"kafka://{{relay.address}}/{topic}-ours", kafka=kafka)
    starting = threading.Thread(target=engine.start)
    starting.start()
    assert relay.answered.wait(60)
    starting.join()
    engine.stop(5)
    done.append("our TLS")

def ours_plain():
    kafka = {{"view_dir": "memory", "partitions": 3}}
    with klatch.sync.Engine(log=f"kafka://{{address}}/{topic}-ours", kafka=kafka) as engine:
        for n in range(100):
            engine.publish("room", n)
        assert [p.data for p in engine.history("room", limit=200)] == list(range(100))
    done.append("ours")

def pythons():
    client = ssl.create_default_context(cafile="authority.pem")
    relay = Relay()
    host, port = relay.address.split(":")
    for _ in range(50):
        with client.wrap_socket(socket.create_connection((host, port)), server_hostname=host) as s:
            assert s.version() == "TLSv1.3"
    done.append("Python's TLS")

threads = [threading.Thread(target=t) for t in (theirs, theirs_plain, ours, ours_plain, pythons)]
[t.start() for t in threads]
[t.join() for t in threads]
print(*sorted(done), sep=", ")
"""


@pytest.mark.parametrize("order", list(itertools.permutations(["confluent_kafka", "klatch", "ssl"])), ids="-".join)
def test_x35_with_other_openssls_and_librdkafkas_in_one_process(order, kafka, script):
    program = OTHERS.format(order=", ".join(order), topic="-".join(order))
    done = script(program, kafka.removeprefix("kafka://").rstrip("/"))
    assert done.stdout == "Python's TLS, our TLS, ours, their TLS, theirs\n" and done.returncode == 0, (
        done.stdout + done.stderr
    )
