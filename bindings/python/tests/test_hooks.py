"""Hooks, plain and async: what they answer, and what becomes of those that do not."""

import asyncio
import logging
import threading

import pytest

import klatch
from client import Client
from conftest import run

QUICK = {"hook_timeout_ms": 2000}


def plain(engine, on):
    """Hooks that do what they are asked in words; notes their threads."""

    @engine.on_connect
    def connect(request):
        on.add(threading.current_thread())
        assert request.connection.startswith("c") and request.address.startswith("127.0.0.1:")
        return word(request.token, request.user)

    @engine.on_join
    def join(request):
        on.add(threading.current_thread())
        return word(request.room, True)

    @engine.on_publish
    def publish(request):
        on.add(threading.current_thread())
        assert not request.is_bytes or request.raw == request.data
        return word(request.data, True)


def in_a_loop(engine, on):
    @engine.on_connect
    async def connect(request):
        await asyncio.sleep(0)
        on.add(threading.current_thread())
        return word(request.token, request.user)

    @engine.on_join
    async def join(request):
        on.add(threading.current_thread())
        return word(request.room, True)

    @engine.on_publish
    async def publish(request):
        on.add(threading.current_thread())
        if request.data == "never":
            await asyncio.get_running_loop().create_future()
        return word(request.data, True)


def word(text, yes):
    if text == "deny":
        raise klatch.Deny("not that")
    if text == "return deny":
        return klatch.Deny("not that")
    if text == "false":
        return False
    if text == "throw":
        raise ZeroDivisionError("on purpose")
    if text == "a timeout of its own":
        raise asyncio.TimeoutError
    if text == "exit":
        raise SystemExit(3)
    if text == "nothing":
        return None
    if text == "odd":
        return 17
    if text == "replace":
        return klatch.Replace({"replaced": True})
    if text == "replace bytes":
        return klatch.Replace(b"replaced")
    if text == "replace odd":
        return klatch.Replace(float("nan"))
    return yes


@pytest.mark.parametrize("kind", [plain, in_a_loop])
def test_hooks_answer(kind, caplog):
    async def main():
        engine = klatch.Engine(log="memory", listen="127.0.0.1:0", limits=QUICK)
        threads = set()
        kind(engine, threads)
        async with engine:
            with pytest.raises(RuntimeError):
                engine.on_join(lambda request: True)
            async with await Client.connect(engine, user="ann", token="deny") as refused:
                assert (await refused.until(type="error"))["message"] == "not that"
            async with await Client.connect(engine, user="ann", token="nothing") as refused:
                assert (await refused.until(type="error"))["name"] == "internal"
            async with await Client.connect(engine, user="ann", room="lobby") as ann:
                assert (await ann.until(type="welcome"))["user"] == "ann"
                await ann.until(type="joined")
                for room, name in (("deny", "denied"), ("throw", "internal"), ("nothing", "internal")):
                    await ann.send(type="join", room=room, ref=1)
                    assert (await ann.until(ref=1))["name"] == name

                async def publish(data):
                    """What is stored, or the error."""
                    await ann.send(type="publish", data=data, ref=2)
                    stored = None
                    while True:
                        frame = await ann.next()
                        if frame["type"] == "publication":
                            stored = frame
                        elif frame.get("ref") == 2:
                            # What a member is sent comes before the answer to it.
                            assert (frame["type"] == "error") == (stored is None), frame
                            return stored or frame

                assert (await publish("hello"))["data"] == "hello"
                assert (await publish("replace"))["data"] == {"replaced": True}
                assert (await publish("replace bytes"))["bytes"] == "cmVwbGFjZWQ="
                for text in ("deny", "return deny"):
                    assert (await publish(text))["message"] == "not that"
                assert (await publish("false"))["name"] == "denied"
                for text in ("throw", "nothing", "odd", "replace odd", "a timeout of its own"):
                    assert (await publish(text))["name"] == "internal", text
                if kind is plain:
                    assert (await publish("exit"))["name"] == "internal"
                    assert threading.main_thread() not in threads
                else:
                    assert (await publish("never"))["name"] == "hook_timeout"
                    assert threads == {threading.main_thread()}
                assert (await publish("still there"))["data"] == "still there"
            # What the program publishes does not pass through it.
            await engine.publish("lobby", "deny")

    with caplog.at_level(logging.ERROR, "klatch.hooks"):
        run(main())
    texts = [r.getMessage() for r in caplog.records]
    assert any("raised an exception" in t for t in texts)
    assert any("returned nothing" in t for t in texts) and any("returned int" in t for t in texts)
    for error in (ZeroDivisionError, asyncio.TimeoutError):
        assert any(r.exc_info and r.exc_info[0] is error for r in caplog.records)


def test_hooks_as_arguments_and_what_is_none():
    async def main():
        with pytest.raises(TypeError):
            klatch.Engine(on_join=True)
        engine = klatch.Engine(
            log="memory", listen="127.0.0.1:0", on_join=lambda request: request.room == "open"
        )
        async with engine:
            async with await Client.connect(engine, user="ann", room="open") as ann:
                assert (await ann.until(type="welcome"))["user"] == "ann"
                await ann.until(type="joined")
                await ann.send(type="join", room="closed", ref=1)
                assert (await ann.until(ref=1))["message"] == "not allowed"

    run(main())


def test_a_hook_may_call_the_engine():
    async def main():
        engine = klatch.Engine(log="memory", listen="127.0.0.1:0")

        @engine.on_join
        async def join(request):
            ack = await engine.publish("log", f"{request.user} joins {request.room}")
            engine.signal(request.room, "someone")
            page = await engine.history("log", after=ack.offset - 1)
            return len(page) == 1

        async with engine:
            async with await Client.connect(engine, user="ann", room="lobby") as ann:
                await ann.until(type="joined")

    run(main())


def test_r23_a_plain_hook_may_call_an_engine_that_waits():
    """Publish, history and stop from a hook, in the face that waits."""
    import websockets.sync.client

    stopped = threading.Event()
    engine = klatch.sync.Engine(log="memory", listen="127.0.0.1:0")

    @engine.on_join
    def join(request):
        engine.publish("log", 1)
        assert len(engine.history("log")) == 1
        engine.stop(5)
        stopped.set()
        return True

    with engine:
        with websockets.sync.client.connect(f"{engine.url}?user=ann&room=lobby", subprotocols=["klatch.v1"]):
            assert stopped.wait(30)
    with pytest.raises(klatch.Stopped):
        engine.publish("log", 2)


def test_calls_that_no_loop_takes_are_bounded():
    """The loop of the engine was closed: what clients ask filled the memory, one call after the other."""
    engine = klatch.Engine(
        log="memory",
        listen="127.0.0.1:0",
        open_users=True,
        limits={"hook_timeout_ms": 1, "publish_rate": 0},
    )

    @engine.on_publish
    async def publish(request):
        return True

    async def first():
        await engine.start()

    async def ask(count):
        async with await Client.connect(engine, user="ann") as client:
            await client.until(type="welcome")
            for n in range(count):
                await client.send(type="publish", room="room", data=n, ref=n)
            return [(await client.until(type="error", ref=n))["name"] for n in range(count)]

    async def second():
        answers = await asyncio.gather(*(ask(210) for _ in range(70)))
        await engine.stop()
        return sum(answers, [])

    asyncio.run(first())
    answers = run(second())
    late, refused = answers.count("hook_timeout"), answers.count("internal")
    # One that is late before it is asked for takes no place in the queue.
    assert late + refused == 14_700 and 0 < refused <= 4_700, (late, refused)
