"""Multi-agent reinforcement learning on JAX."""
