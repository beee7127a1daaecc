"""`python -m klatch`."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

import klatch
from conftest import PATIENCE, begin

PROGRAM = [sys.executable, "-m", "klatch"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_stops(how, tmp_path):
    program = begin("-m", "klatch", "serve", "--listen", "127.0.0.1:0", "--log", tmp_path / "log")
    try:
        url = re.match(r"listening on (http://\S+/)", program.stdout.readline()).group(1)
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert b"<html" in answer.read()
        program.send_signal(how)
        _, err = program.communicate(timeout=PATIENCE)
        assert program.returncode == 0 and "Traceback" not in err, err
    finally:
        program.kill()
        program.wait()
    verified = subprocess.run([*PROGRAM, "verify", "--json", str(tmp_path / "log")], capture_output=True, text=True)
    assert verified.returncode == 0 and json.loads(verified.stdout)["damage"] == []


def test_its_arguments():
    version = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True)
    assert version.returncode == 0 and klatch.__version__ in version.stdout
    wrong = subprocess.run([*PROGRAM, "serve", "--no-such"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "python -m klatch" in wrong.stderr
