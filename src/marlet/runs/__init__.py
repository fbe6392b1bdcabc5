"""What is kept of a training run, in plain files: options, metrics, checkpoints, pictures."""
