"""Writes every message of a Kafka topic into SQLite, each once: as many of these as you like share the work.

    python archive.py kafka://127.0.0.1:9092/chats chats.sqlite

A message may be handed out again, after a crash for instance; its place, room and offset, tells that it is there already.
"""

import argparse
import sqlite3

import klatch


def main(log: str, path: str, group: str, view: str) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS messages"
        " (room TEXT, place INTEGER, time REAL, user TEXT, data BLOB, PRIMARY KEY (room, place)) WITHOUT ROWID"
    )

    def store(p: klatch.Publication) -> None:
        with database:
            row = (p.room, p.offset, p.time, p.user, p.raw)
            database.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?)", row)

    with klatch.sync.Engine(log=log, kafka={"view_dir": view}) as engine:
        print("at work; Ctrl-C stops", flush=True)
        # What was stored is committed; where `store` raises, the message is handed out again, here or elsewhere.
        engine.consume(group, store)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes every message of a Kafka topic into SQLite.")
    parser.add_argument("log")
    parser.add_argument("database")
    parser.add_argument("--group", default="archive")
    parser.add_argument("--view", default="memory", help="a folder of this process, so that it starts faster")
    arguments = parser.parse_args()
    try:
        main(arguments.log, arguments.database, arguments.group, arguments.view)
    except KeyboardInterrupt:
        pass
