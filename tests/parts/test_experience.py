"""What follows each step: the next one, but the final one where the clock cut an episode off; against a slow loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlet.parts.experience import Experience, at_cuts, cuts_of, following, outputs_after, seen_in, steps_after
from marlet.parts.nets import team_of
from marlet.types import Spec, Step, Transition

pytestmark = pytest.mark.rough

B = 3


def spec_of(horizon):
    """Episodes of this many steps; with 0 the clock may cut at any step."""
    return Spec(num_agents=2, num_actions=3, obs_shape=(4,), state_size=5, horizon=horizon or None, mortal=not horizon)


# Steps of the rollout, steps of an episode, places for cuts.
WAYS = [
    (5, 0, 5),  # at any step
    (4, 4, 1),  # aligned: at each rollout's end
    (4, 8, 1),  # aligned: at every second rollout's end
    (4, 6, 1),
    (4, 25, 1),
    (7, 3, 3),
    (6, 4, 2),
    (3, 1, 3),  # at every step
]


def cut_off(length, horizon, draw):
    """Where the clock cut B environments off: "T B"."""
    if not horizon:
        return np.array(draw(st.lists(st.booleans(), min_size=length * B, max_size=length * B))).reshape(length, B)
    step = length if horizon % length == 0 else 1
    clocks = [step * draw(st.integers(0, horizon // step - 1)) for _ in range(B)]
    return (np.array(clocks) + np.arange(1, length + 1)[:, None]) % horizon == 0


def transitions(length, truncated):
    """A rollout in which every number is different."""
    spec = spec_of(0)
    n, a, d, s = spec.num_agents, spec.num_actions, *spec.obs_shape, spec.state_size

    def step(begin, truncated):
        numbers = lambda more, *axes: begin + more + np.arange(length * B * np.prod(axes)).reshape(length, B, *axes)  # noqa: E731
        return Step(
            obs=numbers(0, n, d).astype(np.float32),
            state=numbers(1000, s).astype(np.float32),
            available=numbers(2000, n, a) % 5 > 1,
            reward=numbers(3000, n).astype(np.float32),
            alive=np.ones((length, B, n), bool),
            truncated=truncated,
            cost=np.zeros((length, B, n), np.float32),
        )

    now, next = step(0, np.zeros_like(truncated)), step(10_001, truncated)
    return Transition(now=now, action=np.zeros((length, B, n), np.int32), next=next, first=truncated, extra=())


@partial(jax.jit, static_argnames="spec")
def joined(t, later, spec):
    """The cuts, and what followed each step: from the steps themselves and from something computed of each of them.

    `later` is what came after the last step where nothing was cut off.
    """
    cuts = cuts_of(t, spec)
    now = seen_in(t.now)
    seen = jax.tree.map(lambda now, later: jnp.concatenate([now, later[None]]), now, later)
    e = Experience(seen, t.now.alive, t.action, t.next.reward, t.next.alive, t.first, t.now.obs[0], cuts)
    return cuts, e.next, at_cuts(t.next.reward, cuts.at), following(seen.state, cuts.seen.state, cuts.at)


@partial(jax.jit, static_argnames=("spec", "memory"))
def said(t, later, spec, memory):
    """What networks say of the step after each transition: told of all of them anew, of few, and of few that are others'."""
    team = team_of((0, 0), *spec.obs_shape, (16,), memory, 4, key=jax.random.key(1))
    cuts, next, _, _ = joined(t, later, spec)
    first = jnp.concatenate([jnp.zeros_like(t.first[:1]), t.next.truncated[:-1]])
    told = lambda obs: jnp.sin(obs + jnp.arange(spec.obs_shape[0]) ** 2)  # noqa: E731
    memories, outputs = team.unroll(team.blank(B), told(t.now.obs), first)
    last, finals = told(next.obs[-1]), told(cuts.seen.obs)
    few = outputs_after(team, memories, outputs, last, finals, cuts)
    others = outputs_after(team, memories, outputs, jnp.roll(last, 1, axis=0), jnp.roll(finals, 1, axis=1), cuts)
    return team.step(memories, told(next.obs))[1], few, others


@pytest.mark.parametrize("memory", [0, 2])
@pytest.mark.parametrize(("length", "horizon", "places"), WAYS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_what_networks_say_of_what_follows_is_computed_for_few_steps_anew(length, horizon, places, memory, data):
    truncated = cut_off(length, horizon, data.draw)
    t = transitions(length, truncated)
    later = jax.tree.map(lambda leaf: ~leaf[0] if leaf.dtype == bool else -1 - leaf[0], seen_in(t.now))
    anew, few, others = said(t, later, spec_of(horizon), memory)
    np.testing.assert_allclose(few, anew, atol=1e-5)
    differs = np.abs(others - anew).max((2, 3)) > 1e-3
    assert differs[-1].all()  # the control
    assert (differs[:-1] == truncated[:-1]).all()


@pytest.mark.parametrize(("length", "horizon", "places"), WAYS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_follows_is_the_next_step_or_the_final_one(length, horizon, places, data):
    truncated = cut_off(length, horizon, data.draw)
    t = transitions(length, truncated)
    later = jax.tree.map(lambda leaf: ~leaf[0] if leaf.dtype == bool else -1 - leaf[0], seen_in(t.now))
    cuts, next, rewards, states = jax.device_get(joined(t, later, spec_of(horizon)))

    assert cuts.aligned == (horizon > 0 and horizon % length == 0)
    assert cuts.at.shape == (places, B)
    assert spec_of(horizon).cuts(length) == places
    for b in range(B):
        used = cuts.at[:, b][cuts.at[:, b] < length]
        np.testing.assert_array_equal(np.sort(used), np.flatnonzero(truncated[:, b]))  # each once
        assert (cuts.at[:, b] <= length).all()
        for place, k in enumerate(cuts.at[:, b]):
            if k < length:
                np.testing.assert_array_equal(rewards[place, b], t.next.reward[k, b])
                for name in ("obs", "state", "available"):
                    found = getattr(cuts.seen, name)[place, b]
                    np.testing.assert_array_equal(found, getattr(t.next, name)[k, b])
        for k in range(length):
            for name in ("obs", "state", "available"):
                after = getattr(t.now, name)[k + 1, b] if k + 1 < length else getattr(later, name)[b]
                expected = getattr(t.next, name)[k, b] if truncated[k, b] else after
                np.testing.assert_array_equal(getattr(next, name)[k, b], expected)
    np.testing.assert_array_equal(states, next.state)


def test_a_cut_in_another_place_is_another_successor():
    """The control: what follows depends on where the cut is, and a place that is not used changes nothing."""
    x, final = jnp.arange(5.0)[:, None], jnp.array([[50.0]])
    of = lambda at: following(x, final, jnp.array([[at]]))[:, 0].tolist()  # noqa: E731
    assert of(2) == [1, 2, 50, 4]
    assert of(1) == [1, 50, 3, 4]
    assert of(4) == [1, 2, 3, 4]
    many = following(x, 10 * jnp.arange(4.0)[:, None], jnp.array([[4], [1], [4], [3]]))
    assert many[:, 0].tolist() == [1, 10, 3, 30]


def test_steps_after_are_those_one_later():
    now, last = {"x": jnp.arange(6).reshape(3, 2)}, {"x": jnp.array([8, 9])}
    np.testing.assert_array_equal(steps_after(now, last)["x"], [[2, 3], [4, 5], [8, 9]])
