"""The command line: one command, ``stream-ctr``, one file per subcommand."""

from stream_ctr.cli.dispatcher import main

__all__ = ["main"]
