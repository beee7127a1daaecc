"""The engine's verbs, in an event loop."""

import asyncio
import math

import pytest

import klatch
from client import Client
from conftest import run


def test_a_message_is_stored_and_read_back():
    async def main():
        async with klatch.testing.engine() as engine:
            ack = await engine.publish("lobby", {"text": "hello"}, user="ann", id="m1")
            assert (ack.offset, ack.id, ack.duplicate) == (1, "m1", False)
            again = await engine.publish("lobby", {"text": "hello"}, user="ann", id="m1")
            assert (again.offset, again.duplicate) == (ack.offset, True)
            page = await engine.history("lobby")
            (p,) = page
            assert (p.room, p.user, p.id, p.given_id, p.offset, p.prev) == ("lobby", "ann", "m1", "m1", 1, 0)
            assert p.data == {"text": "hello"} and p.raw == b'{"text":"hello"}' and not p.is_bytes
            assert p.time_ms > 1.7e12 and p.time == p.time_ms / 1000
            assert (page.more, page.last, page.epoch) == (False, 1, ack.epoch)
            assert "lobby" in repr(p) and "1" in repr(ack) and len(page) == 1

    run(main())


def test_the_log_outlives_the_engine(tmp_path):
    async def main():
        log = str(tmp_path / "log")
        async with klatch.Engine(log=log) as engine:
            await engine.publish("lobby", 1)
            with pytest.raises(klatch.DataDirLocked):
                await klatch.Engine(log=log).start()
        async with klatch.Engine(log=log) as engine:
            assert [p.data for p in await engine.history("lobby")] == [1]

    run(main())


def test_outcomes_are_typed():
    async def main():
        engine = klatch.Engine(log="memory", limits={"message_bytes": 1000})
        with pytest.raises(klatch.Stopped):
            engine.publish("lobby", 1)
        async with engine:
            await engine.publish("lobby", 1, user="ann", id="m1")
            with pytest.raises(klatch.Conflict) as caught:
                await engine.publish("lobby", 2, user="ann", id="m1")
            e = caught.value
            assert isinstance(e, klatch.NotStored) and isinstance(e, ValueError)
            assert (e.code, e.name, e.retry, e.retry_after) == (206, "conflict", "never", 0)
            with pytest.raises(klatch.InvalidName):
                await engine.publish("", 1)
            with pytest.raises(klatch.TooLarge):
                await engine.publish("lobby", "x" * 2000)
            with pytest.raises(klatch.InvalidId):
                await engine.publish("lobby", 1, id="~1")
            with pytest.raises(klatch.Unsupported):
                async with engine.consume("archive"):
                    pass
            outcomes = await engine.publish_batch([("lobby", 1), ("", 2), ("lobby", 3, "ann", "m2")])
            assert [type(o) for o in outcomes] == [klatch.Ack, klatch.InvalidName, klatch.Ack]
            assert outcomes[2].id == "m2"
        with pytest.raises(klatch.Stopped):
            await engine.publish("lobby", 1)
        assert engine.health == "stopped" and await engine.stop() == 0

    run(main())


def test_wrong_settings_are_named_and_not_shown():
    async def main():
        for settings in (
            {"limits": {"publish_rat": "hunter2"}},
            {"limits": {"publish_rate": "hunter2"}},
            {"limits": {"publish_rate": -1}},
            {"lgo": "hunter2"},
            {"log": object()},
        ):
            with pytest.raises(klatch.InvalidConfig) as caught:
                await klatch.Engine(settings).start()
            assert "hunter2" not in str(caught.value)
        with pytest.raises(klatch.AddressUnusable):
            await klatch.Engine(log="memory", listen="203.0.113.1:80").start()

    run(main())


def test_values_come_back_as_they_went():
    values = [
        None,
        True,
        0,
        -1,
        2**63,
        2**64 + 1,
        -(10**100),
        0.1,
        1e300,
        5e-324,
        1.0,
        "",
        "äöü \u2028 😀 \x00 \x7f",
        [],
        {},
        [1, [2, {"a": None}]],
        {"ключ": "значение"},
    ]
    binary = [b"", b"\x00\xff", bytearray(b"ab"), memoryview(b"abc")[1:]]

    async def main():
        async with klatch.Engine(log="memory") as engine:
            for value in [*values, *binary]:
                await engine.publish("values", value)
            got = []
            async for p in engine.subscribe("values", since=0):
                got.append(p)
                if len(got) == len(values) + len(binary):
                    break
            for value, p in zip(values, got):
                assert p.data == value and type(p.data) is type(value) and not p.is_bytes
                assert p.data is p.data
            for value, p in zip(binary, got[len(values) :]):
                assert p.data == bytes(value) and p.is_bytes and type(p.data) is bytes
            # Text that is JSON already is stored byte for byte.
            text = '{ "a" : 1.50, "a": 12345678901234567890123 }'
            await engine.publish("values", klatch.Json(text))
            page = await engine.history("values", backward=True, limit=1)
            assert page.publications[0].raw == text.encode()

    run(main())


def test_values_that_cannot_be_stored():
    class Odd:
        pass

    async def main():
        async with klatch.Engine(log="memory") as engine:
            for value in (math.nan, math.inf, [-math.inf], "\ud800", {"\udfff": 1}, klatch.Json("\ud800")):
                with pytest.raises(klatch.InvalidData):
                    await engine.publish("values", value)
            # An escape for a lone surrogate is refused by the engine itself.
            for text in ('"\\ud800"', "{", "", "1 2"):
                with pytest.raises(klatch.InvalidRequest):
                    await engine.publish("values", klatch.Json(text))
            for value in (Odd(), {1, 2}, {(1, 2): 3}):
                with pytest.raises(TypeError):
                    await engine.publish("values", value)
            circle = []
            circle.append(circle)
            with pytest.raises(klatch.TooDeep):
                await engine.publish("values", circle)
            deep = value = []
            for _ in range(100_000):
                value.append([])
                value = value[0]
            with pytest.raises(klatch.TooDeep):
                await engine.publish("values", deep)
            with pytest.raises(UnicodeEncodeError):
                await engine.publish("\ud800", 1)
            assert (await engine.history("values")).publications == []
            # What Python itself will not read is still there as text.
            await engine.publish("values", klatch.Json("1" * 5000))
            (p,) = await engine.history("values")
            assert p.raw == b"1" * 5000

    run(main())


def test_a_subscription_is_history_then_live():
    async def main():
        async with klatch.testing.engine() as engine:
            for n in range(500):
                engine.publish("room", n)
            last = await engine.publish("room", 500)

            async with engine.subscribe("room", since=0) as all_of_it, engine.subscribe("room") as live:
                assert all_of_it.recovered
                for n in range(501, 600):
                    last = await engine.publish("room", n)
                got = [await all_of_it.__anext__() for _ in range(600)]
                assert [p.data for p in got] == list(range(600))
                assert all(b.prev == a.offset for a, b in zip(got, got[1:]))
                assert all_of_it.position == (last.epoch, last.offset)
                assert (await live.batch(3))[0].data == 501

            # The rest from where one was.
            at = klatch.Position(last.epoch, got[596].offset)
            async with engine.subscribe("room", since=at) as rest:
                assert [p.data for p in await rest.batch()] == [597, 598, 599]
            async with engine.subscribe("room", since=("0" * 16, 3), history=2) as other:
                assert not other.recovered
                assert [p.data for p in await other.batch()] == [598, 599]
            async with engine.subscribe("room", history=3) as newest:
                assert [p.data for p in await newest.batch(2)] == [597, 598]
                assert newest.position.offset == got[598].offset

    run(main())


def test_all_rooms_from_now_on():
    async def main():
        async with klatch.Engine(log="memory", limits={"event_queue": 3}) as engine:
            await engine.publish("lobby", "before")
            async with engine.subscribe_all() as everything, engine.subscribe_all() as unread:
                for room in ("lobby", "hall", "lobby"):
                    await engine.publish(room, room)
                got = [await everything.__anext__() for _ in range(3)]
                assert [(p.room, p.offset, p.prev) for p in got] == [("lobby", 2, 1), ("hall", 3, 0), ("lobby", 4, 2)]
                await engine.publish("hall", "one too many")
                with pytest.raises(klatch.SubscriptionEnded) as ended:
                    await unread.batch()
                assert ended.value.why == "slow"
                assert [p.data for p in await everything.batch()] == ["one too many"]

    run(main())


def test_position_is_what_the_program_has_had_not_what_was_read_ahead():
    async def main():
        async with klatch.Engine(log="memory") as engine:
            acks = [await engine.publish("room", n) for n in range(5)]
            subscription = engine.subscribe("room", since=0)
            with pytest.raises(RuntimeError):
                subscription.position
            async for p in subscription:
                assert subscription.position.offset == p.offset
                if p.data == 2:
                    break
            again = engine.subscribe("room", since=subscription.position)
            assert (await again.__anext__()).offset == acks[3].offset

    run(main())


def test_one_that_is_closed_while_it_reads_history_ends():
    async def main():
        async with klatch.testing.engine() as engine:
            for n in range(20):
                await engine.publish("room", n)
            # Who waited for a read that was thrown away waited for ever, most of the time.
            for _ in range(20):
                subscription = await engine.subscribe("room", since=0).__aenter__()
                waits = asyncio.ensure_future(subscription.batch())
                await asyncio.sleep(0)
                await subscription.aclose()
                assert len(await waits) in (0, 20)

    run(main())


def test_one_task_reads_at_a_time():
    async def main():
        async with klatch.testing.engine() as engine:
            async with engine.subscribe("room") as subscription:
                first = asyncio.ensure_future(subscription.batch())
                await asyncio.sleep(0)
                # It took the wake-up of the first one, which then waited for ever.
                with pytest.raises(RuntimeError, match="being read elsewhere"):
                    await subscription.batch()
                await engine.publish("room", 1)
                assert [p.data for p in await first] == [1]
                second = asyncio.ensure_future(subscription.batch())
                await asyncio.sleep(0)
                second.cancel()
                third = asyncio.ensure_future(subscription.batch())
                await asyncio.sleep(0)
                await engine.publish("room", 2)
                assert [p.data for p in await third] == [2]

    run(main())


def test_a_subscription_ends():
    async def main():
        async with klatch.Engine(log="memory", limits={"event_queue": 10}) as engine:
            # By its owner, while somebody waits.
            subscription = await engine.subscribe("room").__aenter__()
            waits = asyncio.ensure_future(subscription.batch())
            await asyncio.sleep(0)
            await subscription.aclose()
            assert await waits == [] and await subscription.batch() == []
            # So are events.
            events = engine.events()
            waits = asyncio.ensure_future(events.__anext__())
            await asyncio.sleep(0)
            await events.aclose()
            with pytest.raises(StopAsyncIteration):
                await waits
            # It was not read.
            async with engine.subscribe("room") as slow:
                for n in range(50):
                    await engine.publish("room", n)
                with pytest.raises(klatch.SubscriptionEnded) as caught:
                    await slow.batch()
                assert caught.value.why == "slow"
            # A task that waits is cancelled; nothing is lost.
            async with engine.subscribe("room") as kept:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(kept.batch(), 0.01)
                await engine.publish("room", "kept")
                assert [p.data for p in await kept.batch()] == ["kept"]
            rest = engine.subscribe("room")
            end = asyncio.ensure_future(rest.__aenter__())
            await end
            waits = asyncio.ensure_future(rest.batch())
            await asyncio.sleep(0)
        # With the engine.
        assert await waits == []
        assert [p async for p in rest] == []

    run(main())


def test_clients_and_the_program_see_each_other():
    async def main():
        async with klatch.testing.engine() as engine:
            events = engine.events()
            async with await Client.connect(engine, room="lobby", user="ann") as ann:
                welcome = await ann.until(type="welcome")
                await ann.until(type="joined")
                assert await events.__anext__() == klatch.events.Connected(
                    welcome["connection"], "ann", (await _address(ann))
                )
                assert await events.__anext__() == klatch.events.Joined(welcome["connection"], "ann", "lobby")
                await engine.publish("lobby", {"text": "from the program"})
                got = await ann.until(type="publication")
                assert got["data"] == {"text": "from the program"}
                async with engine.subscribe("lobby") as subscription:
                    await ann.send(type="publish", data="from ann", id="a1")
                    p = await subscription.__anext__()
                    assert (p.user, p.data, p.id) == ("ann", "from ann", "a1")
                presence = engine.presence("lobby")
                assert (presence.count, presence.users, presence.truncated) == (1, [("ann", 1)], False)
                engine.signal("lobby", "typing", {"on": True}, user="bob")
                signal = await ann.until(type="signal")
                assert (signal["name"], signal["user"], signal["data"]) == ("typing", "bob", {"on": True})
                engine.send(welcome["connection"], "invited", [1])
                signal = await ann.until(type="signal")
                assert (signal["name"], signal["data"], "room" in signal) == ("invited", [1], False)
                with pytest.raises(klatch.InvalidName):
                    engine.signal("lobby", "")
                with pytest.raises(klatch.InvalidRequest):
                    engine.send("nobody", "invited")
                with pytest.raises(TypeError):
                    engine.send(welcome["connection"], "invited", b"1")
                with pytest.raises(TypeError):
                    engine.kick()
                engine.kick(user="ann", room="lobby")
                assert await events.__anext__() == klatch.events.Left(welcome["connection"], "ann", "lobby")
                engine.kick(connection=welcome["connection"])
                gone = await events.__anext__()
                assert gone == klatch.events.Disconnected(welcome["connection"], "ann", "kicked")
            assert "klatch_publishes_stored_total 2" in engine.metrics()
            assert engine.health == "up" and engine.url == f"ws://{engine.addresses[0]}/ws"
        assert [e async for e in events] == []

    async def _address(client):
        host, port = client.ws.local_address[:2]
        return f"{host}:{port}"

    run(main())


def test_two_engines_and_two_loops():
    async def main(engine):
        async with engine:
            async with klatch.Engine(log="memory") as other:
                await asyncio.gather(*(e.publish("r", n) for n in range(100) for e in (engine, other)))
                assert (await other.history("r")).last == 100
        return engine

    run(main(klatch.Engine(log="memory")))
    run(main(klatch.Engine(log="memory")))
