"""Replay: a ring whose sequences stay whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.replay import Replay

STEPS, BATCH = 5, 2


def sequences(begin):
    """B sequences whose entries say which environment and which step they are."""
    step = begin + jnp.arange(STEPS)
    return {
        "env": jnp.broadcast_to(jnp.arange(BATCH)[:, None], (BATCH, STEPS)),
        "step": jnp.broadcast_to(step, (BATCH, STEPS)),
    }


def filled(rounds, capacity=6):
    replay = Replay.empty(jax.tree.map(lambda leaf: leaf[0], sequences(0)), capacity)
    add = jax.jit(lambda replay, new: replay.add(new))
    for k in range(rounds):
        replay = add(replay, sequences(k * STEPS))
    return replay


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 7, 8])
def test_neighbours_are_one_step_apart_in_one_environment_also_after_wrapping(rounds):
    sample = filled(rounds).sample(200, key=jax.random.key(0))
    assert (jnp.diff(sample["step"], axis=1) == 1).all()
    assert (jnp.diff(sample["env"], axis=1) == 0).all()
    held = {(e, s) for e, s in zip(sample["env"][:, 0].tolist(), sample["step"][:, 0].tolist(), strict=True)}
    expected = {(e, k * STEPS) for e in range(BATCH) for k in range(max(0, rounds - 3), rounds)}
    assert held == expected


def test_nothing_is_sampled_that_was_not_added_and_all_equally_often():
    replay = filled(2)
    assert int(replay.size) == 4
    sample = replay.sample(40_000, key=jax.random.key(1))
    _, counts = np.unique(sample["env"][:, 0] * 100 + sample["step"][:, 0], return_counts=True)
    np.testing.assert_allclose(counts / 40_000, 1 / 4, atol=0.01)


def test_a_capacity_that_would_wrap_in_the_middle_is_refused():
    with pytest.raises(ValueError, match="without wrapping"):
        Replay.empty({"x": jnp.zeros(3)}, 5).add({"x": jnp.zeros((2, 3))})
