"""The command line: one command, ``stream-ctr``, a file for each subcommand."""

from stream_ctr.cli.dispatcher import main

__all__ = ["main"]
