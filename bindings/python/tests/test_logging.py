"""The engine's log is in `logging`, and says nothing that nobody wants to see."""

import logging

import klatch
from klatch import _klatch


def test_records_come_at_their_levels(caplog, tmp_path):
    log = str(tmp_path / "log")
    with caplog.at_level(logging.DEBUG, "klatch"):
        with klatch.sync.Engine(log=log) as engine:
            engine.publish("lobby", "a secret")
        # A log with damage is worth a word.
        (segment,) = list((tmp_path / "log").rglob("*.seg*")) or list((tmp_path / "log" / "log").glob("*"))
        _klatch._flush_log(10)
    names = {r.name for r in caplog.records}
    assert names and all(n == "klatch" or n.startswith("klatch.") for n in names), names
    assert "secret" not in caplog.text and "lobby" not in caplog.text


def test_a_broken_handler_hurts_nobody():
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
