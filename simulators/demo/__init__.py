"""``stream-ctr demo``: the closed loop on one machine, ending with the experiment's report."""

from simulators.demo.command import Demo

__all__ = ["Demo"]
