"""``python -m klatch serve`` and the rest of the program ``klatch-server``; see its ``--help`` and docs/configuration.md."""

import signal
import sys

from ._klatch import _main

if __name__ == "__main__":
    # The program has handlers of its own, which would call Python's as well: that would raise KeyboardInterrupt after a clean end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_main(["python -m klatch", *sys.argv[1:]]))
