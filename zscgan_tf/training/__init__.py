"""The one training loop: steps, checkpoints, workdirs, distribution."""
