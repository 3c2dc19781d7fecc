"""``python -m stream_ctr.cli``."""

from __future__ import annotations

import sys

from stream_ctr.cli.dispatcher import main

if __name__ == "__main__":
    sys.exit(main())
