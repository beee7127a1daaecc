"""The stubs say what the module has, and the types hold: in the package, and for those who use it."""

import shutil
import subprocess
import sys
from pathlib import Path

import klatch

EXAMPLES = Path(__file__).parents[3] / "examples" / "python"


def check(*arguments, cwd):
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_are_true(tmp_path):
    check("mypy.stubtest", "klatch", "--ignore-disjoint-bases", cwd=tmp_path)


def test_the_examples_are_typed(tmp_path):
    # As the user has them: against the package as it is installed.
    for example in EXAMPLES.glob("*.py"):
        shutil.copy(example, tmp_path)
    check("mypy", "--strict", ".", cwd=tmp_path)


def test_the_package_is_typed(tmp_path):
    package = Path(klatch.__file__).parent
    shutil.copytree(package, tmp_path / "klatch", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    check("mypy", "--strict", "klatch", cwd=tmp_path)
