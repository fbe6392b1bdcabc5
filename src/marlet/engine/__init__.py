"""What joins algorithms and environments: rollouts, the training loop, evaluation, placement on devices."""
