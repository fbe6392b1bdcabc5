"""Environments: one file each, pure functions of their state, compiled with the learner."""
