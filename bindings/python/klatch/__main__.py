"""``python -m klatch serve`` and the rest of the program ``klatch-server``; see its ``--help`` and docs/configuration.md."""

import sys

from ._klatch import _main

if __name__ == "__main__":
    sys.exit(_main(["python -m klatch", *sys.argv[1:]]))
