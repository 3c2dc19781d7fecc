"""Parts that the three daemons share: checkpoints, state identity, resuming, intake, loop, saver, process."""
