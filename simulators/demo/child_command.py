"""A ``stream-ctr`` command that ends with its parent: ``python -m simulators.demo.child_command COMMAND``."""

from __future__ import annotations

import sys

from simulators.demo.processes import END_SECONDS
from stream_ctr.cli import main
from stream_ctr.daemon.process import end_with_parent

if __name__ == "__main__":
    end_with_parent(END_SECONDS)
    sys.exit(main())
