"""What the three daemons share: checkpoint, identity, resume, intake, saver, process."""
