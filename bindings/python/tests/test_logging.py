"""The engine's log is in `logging`, and says nothing that nobody wants to see."""

import logging
import shutil
import sys

import klatch
from klatch import _klatch


def test_records_come_at_their_levels(caplog, tmp_path):
    log = tmp_path / "log"
    with klatch.sync.Engine(log=str(log)) as engine:
        for text in "a secret", "another":
            engine.publish("lobby", text)
    # A log with damage is worth a word.
    (segment,) = log.glob("*.log")
    segment.write_bytes(segment.read_bytes()[:-3])

    def said(level):
        caplog.clear()
        # It is made anew at each start, which is worth an information.
        shutil.rmtree(log / "view")
        with caplog.at_level(level, "klatch"):
            with klatch.sync.Engine(log=str(log)) as engine:
                assert engine.health == "log_damaged"
            _klatch._flush_log(10)
        assert "secret" not in caplog.text and "lobby" not in caplog.text
        return {(r.name, r.levelno) for r in caplog.records}

    warning, info = ("klatch.log.writer", logging.WARNING), ("klatch.broker.storage", logging.INFO)
    assert said(logging.INFO) >= {warning, info}
    assert said(logging.WARNING) & {warning, info} == {warning}
    assert said(logging.ERROR) & {warning, info} == set()


def test_a_broken_handler_hurts_nobody(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("on purpose")

    handler = Broken()
    logger = logging.getLogger("klatch")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with klatch.sync.Engine(log="memory") as engine:
            _klatch._panic_next()
            try:
                engine.publish("r", 1)
            except klatch.InternalError:
                pass
            assert engine.publish("r", 1).offset == 1
            _klatch._flush_log(10)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert {str(t.exc_value) for t in told} == {"on purpose"}
    with klatch.sync.Engine(log="memory") as engine:
        assert engine.publish("r", 1).offset == 1


def test_panics_go_to_the_log_and_not_to_stderr(caplog, capfd):
    with caplog.at_level(logging.ERROR, "klatch"):
        with klatch.sync.Engine(log="memory") as engine:
            _klatch._panic_next()
            try:
                engine.metrics()
            except klatch.InternalError:
                pass
            _klatch._flush_log(10)
    assert any("a test asked for it" in r.getMessage() and r.levelno == logging.ERROR for r in caplog.records)
    assert capfd.readouterr().err == ""
