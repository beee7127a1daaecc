"""The transcripts of tests/scenarios, which every language must produce: with both faces, on both logs, with one shard and with two."""

import asyncio
import json
import threading
from pathlib import Path

import pytest

import klatch
from scenarios import world

FOLDER = Path(__file__).parents[3] / "tests" / "scenarios"
PATIENCE = 60


def all_of_them():
    for path in sorted(FOLDER.glob("*.json")):
        for scenario in json.loads(path.read_text())["scenarios"]:
            yield f"{path.stem}/{scenario['name'].replace(' ', '_')}", scenario


class Waits:
    """The face that waits, and plain hooks."""

    def start(self, settings, hooks):
        more = {}
        if hooks:
            given = world.Hooks()
            self.end = threading.Event()
            given.never = lambda: self.end.wait(PATIENCE)
            more = {"on_connect": given.connect, "on_join": given.join, "on_publish": given.publish}
        self.engine = klatch.sync.Engine(settings, **more).start()

    def stop(self):
        self.engine.stop(5)
        if hasattr(self, "end"):
            self.end.set()

    def address(self):
        return self.engine.addresses[0]

    def publish(self, room, data, user, id):
        return self.engine.publish(room, data, user=user, id=id)

    def publish_batch(self, messages):
        return self.engine.publish_batch(messages)

    def history(self, room, **query):
        return self.engine.history(room, **query)

    def subscribe(self, room, since, history):
        return self.engine.subscribe(room, since=since, history=history)

    def batch(self, subscription, most, patience):
        try:
            got = subscription.batch(most, patience)
        except klatch.SubscriptionEnded as e:
            return e.why
        return "stopped" if got is None else got

    def events(self):
        self.stream = self.engine.events()

    def event(self, patience):
        return self.stream.next(patience)


class Awaits(Waits):
    """The face in an event loop, and async hooks. The loop has a thread of its own, for the clients of a scenario block."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def end_loop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def start(self, settings, hooks):
        more = {}
        if hooks:
            given = world.Hooks()

            class Never(BaseException):
                pass

            def never():
                raise Never

            given.never = never

            def of(hook):
                async def answer(request):
                    try:
                        return hook(request)
                    except Never:
                        await asyncio.get_running_loop().create_future()

                return answer

            more = {
                "on_connect": of(given.connect),
                "on_join": of(given.join),
                "on_publish": of(given.publish),
            }

        async def start():
            self.engine = await klatch.Engine(settings, **more).start()

        self.do(start())

    def stop(self):
        self.do(self.engine.stop(5))

    def publish(self, room, data, user, id):
        async def publish():
            return await self.engine.publish(room, data, user=user, id=id)

        return self.do(publish())

    def publish_batch(self, messages):
        return self.do(self.engine.publish_batch(messages))

    def history(self, room, **query):
        return self.do(self.engine.history(room, **query))

    def subscribe(self, room, since, history):
        return self.do(self.engine.subscribe(room, since=since, history=history).__aenter__())

    def batch(self, subscription, most, patience):
        async def batch():
            try:
                got = await asyncio.wait_for(subscription.batch(most), patience or 0.01)
            except asyncio.TimeoutError:
                return []
            except klatch.SubscriptionEnded as e:
                return e.why
            return got or "stopped"

        return self.do(batch())

    def events(self):
        async def events():
            self.stream = self.engine.events()

        self.do(events())

    def event(self, patience):
        return self.do(self.stream.__anext__())


def runs_on(scenario, kind):
    only = scenario.get("only", kind)
    return kind in ([only] if isinstance(only, str) else only)


# Each log with each face, and one shard and two; not every one of the eight, the Rust suite has the engine's own.
WAYS = [("embedded", 1, Waits), ("memory", 2, Waits), ("embedded", 2, Awaits), ("memory", 1, Awaits)]


@pytest.mark.parametrize(
    "name, scenario, kind, shards, face",
    [
        pytest.param(name, scenario, kind, shards, face, id=f"{name}-{kind}-{shards}-{face.__name__.lower()}")
        for kind, shards, face in WAYS
        for name, scenario in all_of_them()
        if runs_on(scenario, kind)
    ],
)
def test_scenario(name, scenario, kind, shards, face, tmp_path):
    settings = {
        **scenario.get("settings", {}),
        "shards": shards,
        "listen": ["127.0.0.1:0"],
        "log": "memory" if kind == "memory" else str(tmp_path / "log"),
    }
    host = face()
    try:
        world.World(host, settings, scenario.get("hooks", False)).play(scenario["steps"])
    finally:
        if face is Awaits:
            host.end_loop()
