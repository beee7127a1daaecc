"""A chat with a moderator: messages with a bad word are not stored, others are tidied up, and whoever tries three times has to go.

    python moderator.py --listen 127.0.0.1:8080
"""

import argparse
import asyncio
from collections import Counter
from typing import Union

import klatch
from klatch.hooks import PublishRequest

BAD = {"spam", "scam"}
TRIES = 3


async def main(listen: str, log: str) -> None:
    engine = klatch.Engine(log=log, listen=listen)
    tries: Counter[str] = Counter()

    @engine.on_publish
    async def look(request: PublishRequest) -> Union[bool, klatch.Replace]:
        text = request.data.get("text") if isinstance(request.data, dict) else None
        if not isinstance(text, str):
            raise klatch.Deny("a message is an object with a text")
        if BAD & set(text.lower().split()):
            tries[request.connection] += 1
            if tries[request.connection] == TRIES:
                await engine.publish(request.room, {"text": f"{request.user} has left us"}, user="moderator")
                engine.kick(connection=request.connection)
            raise klatch.Deny("not here")
        return True if text == text.strip() else klatch.Replace({**request.data, "text": text.strip()})

    async with engine:
        print(f"chat at {engine.url}", flush=True)
        async for event in engine.events():
            if isinstance(event, klatch.events.Joined):
                engine.send(event.connection, "rules", {"text": f"Be kind, {event.user or 'whoever you are'}."})
            elif isinstance(event, klatch.events.Disconnected):
                tries.pop(event.connection, None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat with a moderator.")
    parser.add_argument("--listen", default="127.0.0.1:8080")
    parser.add_argument("--log", default="chat-data")
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.listen, arguments.log))
    except KeyboardInterrupt:
        pass
