"""The conformance check: a sound environment passes, and each way of breaking the contract is caught and explained."""

import dataclasses
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import marlet
from marlet import catalogue
from marlet.envs.base import Env, make_step
from marlet.errors import EnvironmentFault
from marlet.options import option
from marlet.testing import check_env
from marlet.types import Spec

pytestmark = pytest.mark.rough


class CountState(eqx.Module):
    count: Array
    alive: Array


@dataclass(frozen=True)
class Countdown(Env):
    """Two agents count five steps; agent 0 dies whenever it chooses 1. Sound, and short to break."""

    steps: int = option(5, "steps of an episode", low=1)
    levels: bool = option(True, "say that observations can be counted")
    continuous: bool = option(False, "take vectors of two numbers for actions")

    @property
    def spec(self):
        levels = (self.steps + 1, 1) if self.levels else ()
        return Spec(2, 2, (2,), 1, horizon=self.steps, levels=levels, continuous=self.continuous)

    def reset(self, *, key):
        state = CountState(jnp.zeros((), jnp.int32), jnp.ones(2, bool))
        return state, self.say(state, jnp.zeros(2))

    def step(self, state, action, *, key):
        risky = action[:, 0] > 0.9 if self.continuous else action == 1
        alive = state.alive & ~(risky & jnp.array([True, False]))
        after = CountState(state.count + 1, alive)
        return after, self.say(after, jnp.where(state.alive, 1.0, 0.0))

    def say(self, state, reward):
        scaled = state.count / self.steps
        return make_step(
            self.spec,
            obs=jnp.stack([jnp.full(2, scaled), jnp.ones(2)], -1),
            state=scaled[None],
            reward=reward,
            alive=state.alive,
            truncated=state.count >= self.steps,
        )


@pytest.mark.parametrize("env", [Countdown(), Countdown(levels=False, continuous=True), Countdown(steps=1)])
def test_a_sound_environment_passes(env):
    passed = check_env(env)
    assert {"spec", "purity", "deaths", "one compilation"} <= set(passed)
    assert ("levels" in passed, "render" in passed) == (bool(env.spec.levels), False)  # it draws nothing
    assert len(set(passed)) == len(passed)


@pytest.mark.parametrize("name", catalogue.env_names())
def test_every_environment_passes_as_it_is_by_default(name):
    assert check_env(catalogue.make_env(name), episodes=1)


def test_what_is_no_environment_is_refused():
    with pytest.raises(EnvironmentFault, match=r"given the class Countdown.*Pass an instance"):
        check_env(Countdown)
    with pytest.raises(EnvironmentFault, match="given a str"):
        check_env("countdown")


# Mutants of the spec: what is changed, and a word of the complaint

SPECS = [
    ({"kinds": (0, 0, 1)}, "kinds has 3 entries, but there are 2 agents"),
    ({"teams": (0,)}, "teams has 1 entries"),
    ({"teams": (0, -1)}, "whole numbers from 0"),
    ({"names": ("a", "a")}, "a name of its own"),
    ({"levels": (6,)}, "each of the 2 observed features"),
    ({"levels": (3, 1)}, r"agent_\d observes .* in feature 0 .*one of 0, 1/2, ..., 1"),
    ({"levels": (1, 1)}, "it must never change"),
    ({"horizon": 4}, "not over after 4 steps of episode 0, but spec.horizon is 4"),
    ({"horizon": 0}, "horizon is 0"),
    ({"mortal": False}, r"agent_0 is dead after \d steps? .*spec.mortal is False"),
    ({"mortal": False, "horizon": None}, "mortal is False, but"),
    ({"num_actions": 3}, r"available after reset has shape|obs|reset cannot"),
    ({"num_actions": 0}, "num_actions is 0"),
    ({"obs_shape": (3,), "levels": ()}, r"obs after reset has shape \(2, 2\), but the spec says \(2, 3\)"),
    ({"obs_shape": (2, 1), "levels": ()}, "Flatten"),
    ({"state_size": 4}, r"state after reset has shape \(1,\), but the spec says \(4,\)"),
]


@pytest.mark.parametrize(("change", "complaint"), SPECS)
def test_a_wrong_spec_is_caught(change, complaint):
    class Mutant(Countdown):
        @property
        def spec(self):
            return dataclasses.replace(Countdown.spec.fget(self), **change)

        def say(self, state, reward):
            step = super().say(state, reward)
            return dataclasses.replace(step, available=jnp.ones((2, 2), bool))

    with pytest.raises(EnvironmentFault, match=complaint):
        check_env(Mutant())


def test_training_refuses_what_can_be_seen_without_playing(tmp_path):
    class Wide(Countdown):
        def say(self, state, reward):
            return dataclasses.replace(super().say(state, reward), obs=jnp.zeros((2, 5)))

    with pytest.raises(EnvironmentFault, match=r"obs after reset has shape \(2, 5\), but the spec says \(2, 2\)"):
        marlet.train(Wide(), "iql", steps=100, out=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir()), "nothing is left of a run that never began"


def test_an_episode_of_immortals_is_cut_off_at_the_horizon_and_not_before():
    class Short(Countdown):
        @property
        def spec(self):
            return dataclasses.replace(Countdown.spec.fget(self), mortal=False, horizon=6)

        def say(self, state, reward):
            return dataclasses.replace(super().say(state, reward), alive=jnp.ones(2, bool))

    with pytest.raises(EnvironmentFault, match=r"cut off after 5 steps .*horizon is 6"):
        check_env(Short())


# Mutants of the world: (reset, step) of a broken Countdown, given what a sound one says


def on_step(change):
    """Break `step` only: `change(before, action, after, said, key)` returns the broken (state, said)."""

    class Mutant(Countdown):
        def step(self, state, action, *, key):
            return change(state, action, *super().step(state, action, key=key), key)

    return Mutant()


def on_reset(change):
    """Break `reset` only: `change(state, said, key)` returns the broken (state, said)."""

    class Mutant(Countdown):
        def reset(self, *, key):
            return change(*super().reset(key=key), key)

    return Mutant()


def says(said, **fields):
    return dataclasses.replace(said, **fields)


def hidden_counter():
    calls = []

    def change(before, action, after, said, key):
        calls.append(1)
        return after, says(said, reward=said.reward * len(calls))

    return on_step(change)


def outside_randomness(before, action, after, said, key):
    return after, says(said, reward=said.reward + np.float32(np.random.default_rng().normal()))


def revives(before, action, after, said, key):
    return after, says(said, alive=jnp.where(before.alive, said.alive, True))


def python_branch(before, action, after, said, key):
    return (after, said) if action[0] == 1 else (before, said)


def no_mask(before, action, after, said, key):
    return after, says(said, available=said.available & ((after.count < 2) | (jnp.arange(2) == 0))[:, None])


def dead_matter(before, action, after, said, key):
    return after, says(said, state=said.state + (~before.alive[0]) * action[0])


def dead_have_no_action(before, action, after, said, key):
    return after, says(said, available=said.available & after.alive[:, None])


FULL, HALF = jnp.float32, jnp.float16

STEPS = {
    "reward is not a number": (
        lambda b, a, s, o, k: (s, says(o, reward=o.reward / (3.0 - s.count) * 0)),
        "reward of agent_",
    ),
    "observation is not finite": (
        lambda b, a, s, o, k: (s, says(o, obs=o.obs.at[1, 0].set(jnp.inf))),
        "obs of agent_1 is inf .* in feature 0",
    ),
    "state is not finite": (
        lambda b, a, s, o, k: (s, says(o, state=o.state * jnp.nan)),
        "feature 0 of the global state",
    ),
    "the dead revive": (revives, "agent_0 is alive again"),
    "the dead earn": (
        lambda b, a, s, o, k: (s, says(o, reward=jnp.ones(2))),
        "agent_0 was dead and still has reward 1",
    ),
    "the dead cost": (lambda b, a, s, o, k: (s, says(o, cost=jnp.ones(2))), "agent_0 was dead and still has cost 1"),
    "the dead matter": (dead_matter, "state depends on what dead agents chose"),
    "the living have no action": (
        no_mask,
        "agent_1 has no legal action after 2 steps of episode 0, but must have one. Make an action",
    ),
    "the dead have no action": (dead_have_no_action, "agent_0 has no legal action .* dead or not"),
    "the clock never stops": (
        lambda b, a, s, o, k: (s, says(o, truncated=jnp.zeros((), bool))),
        "not over after 5 steps",
    ),
    "observation leaves its levels": (lambda b, a, s, o, k: (s, says(o, obs=o.obs * 2)), "feature 0|feature 1"),
    "reward is shared by one number": (
        lambda b, a, s, o, k: (s, says(o, reward=o.reward.sum())),
        r"reward after step has shape \(\)",
    ),
    "reward is of half precision": (
        lambda b, a, s, o, k: (s, says(o, reward=o.reward.astype(HALF))),
        "reward after step is float16",
    ),
    "alive is a number": (
        lambda b, a, s, o, k: (s, says(o, alive=o.alive.astype(FULL))),
        "alive after step is float32",
    ),
    "the end is one an agent": (
        lambda b, a, s, o, k: (s, says(o, truncated=~o.alive)),
        r"truncated after step has shape \(2,\)",
    ),
    "the state changes dtype": (
        lambda b, a, s, o, k: (CountState(s.count + 0.0, s.alive), o),
        r"count is int32\[\] after reset, but float32\[\] after step",
    ),
    "the state changes shape": (
        lambda b, a, s, o, k: (CountState(s.count[None], s.alive), o),
        r"count is int32\[\] after reset, but int32\[1\]",
    ),
    "the state changes kind": (lambda b, a, s, o, k: ((s.count, s.alive), o), "the state after step is a"),
    "the state forgets its dtype": (
        lambda b, a, s, o, k: (CountState(jnp.where(a[0] == 0, 1, 2), s.alive), o),
        "plain Python number after step",
    ),
    "python decides": (python_branch, "step decides in Python on a value.*jnp.where"),
    "python fails": (lambda b, a, s, o, k: (s, o.rewards), "step cannot be compiled by JAX.*rewards"),
    "nothing but the step is returned": (lambda b, a, s, o, k: o, r"must return \(state, Step\)"),
    "randomness from outside": (
        outside_randomness,
        "step with one and the same key said two different things about reward",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_broken_step_is_caught(name):
    change, complaint = STEPS[name]
    with pytest.raises(EnvironmentFault, match=complaint) as caught:
        check_env(on_step(change))
    assert str(caught.value).startswith("Mutant: ")
    assert "\n" not in str(caught.value)


def test_a_hidden_counter_is_caught():
    with pytest.raises(EnvironmentFault, match="said two different things about reward"):
        check_env(hidden_counter())


RESETS = {
    "a reward before the first action": (
        lambda s, o, k: (s, says(o, reward=jnp.array([0.0, 2.0]))),
        "agent_1 has reward 2 after reset",
    ),
    "a cost before the first action": (
        lambda s, o, k: (s, says(o, cost=jnp.ones(2))),
        "agent_0 has cost 1 after reset",
    ),
    "born dead": (lambda s, o, k: (s, says(o, alive=jnp.array([True, False]))), "agent_1 is not alive after reset"),
    "cut off at once": (lambda s, o, k: (s, says(o, truncated=jnp.ones((), bool))), "truncated after reset"),
    "no action at all": (
        lambda s, o, k: (s, says(o, available=jnp.zeros((2, 2), bool))),
        "agent_0 has no legal action after reset",
    ),
    "randomness from outside": (
        lambda s, o, k: (s, says(o, obs=o.obs + np.float32(np.random.default_rng().normal()))),
        "reset with one and the same key",
    ),
    "a picture in the state": (lambda s, o, k: ("text", o), "reset cannot be compiled by JAX"),
}


@pytest.mark.parametrize("name", RESETS)
def test_a_broken_reset_is_caught(name):
    change, complaint = RESETS[name]
    with pytest.raises(EnvironmentFault, match=complaint):
        check_env(on_reset(change))


def test_a_wrong_picture_is_caught():
    class Mutant(Countdown):
        def render(self, state):
            return np.zeros((4, 4, 3))

    with pytest.raises(EnvironmentFault, match=r"render returns float64\[4, 4, 3\]"):
        check_env(Mutant())


@pytest.mark.parametrize("name", ["spec", "render"])
def test_code_of_ones_own_that_fails_is_named(name):
    def fails(*_):
        raise RuntimeError("no map")

    broken = type("Broken", (Countdown,), {name: property(fails) if name == "spec" else fails})
    with pytest.raises(EnvironmentFault, match=rf"^Broken: {name} failed with RuntimeError: no map\."):
        check_env(broken(), episodes=1)
