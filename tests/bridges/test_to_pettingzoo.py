"""Marlet's environments pass PettingZoo's own tests and say the same as without the bridge."""

import importlib
import pkgutil
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

import marlet.envs
from marlet.bridges.facts import fields
from marlet.bridges.from_pettingzoo import Copy
from marlet.bridges.to_pettingzoo import ParallelMarlet
from marlet.envs.base import Env, make_step
from marlet.errors import MarletError
from marlet.options import option
from marlet.types import Spec

pytestmark = pytest.mark.rough


class Tick(NamedTuple):
    t: jax.Array
    luck: jax.Array


@dataclass(frozen=True)
class Countdown(Env):
    """Two teams of two. Agent i sees (t, i, luck), dies after step `2 + i`, and earns t + 10 i while alive."""

    horizon: int = option(4, "steps", low=1)
    continuous: bool = option(False, "whether actions are vectors")

    @property
    def spec(self):
        return Spec(4, 3, (3,), 2, self.continuous, teams=(0, 0, 1, 1), horizon=self.horizon)

    def _said(self, state, reward):
        i = jnp.arange(4)
        alive = state.t < 2 + i
        closed = (state.t + i) % 3
        choices = jnp.arange(3) != closed[:, None]
        return make_step(
            self.spec,
            obs=jnp.stack([jnp.full(4, state.t), i, jnp.full(4, state.luck)], -1),
            state=jnp.stack([state.t, state.luck]),
            reward=reward,
            available=jnp.ones((4, 3), bool) if self.continuous else choices | ~alive[:, None],
            alive=alive,
            truncated=(state.t >= self.horizon) & alive.any(),
        )

    def reset(self, *, key):
        state = Tick(jnp.zeros((), jnp.int32), jax.random.uniform(key))
        return state, self._said(state, jnp.zeros(4))

    def step(self, state, action, *, key):
        i = jnp.arange(4)
        was = state.t < 2 + i
        state = Tick(state.t + 1, jax.random.uniform(key))
        return state, self._said(state, jnp.where(was, state.t + 10 * i, 0))

    def render(self, state):
        return f"t = {int(state.t)}"


def known_environments():
    """Every environment the library has, and the ones above."""
    found = {"countdown": Countdown(), "countdown, continuous": Countdown(continuous=True)}
    for module in pkgutil.iter_modules(marlet.envs.__path__):
        for name, thing in vars(importlib.import_module(f"marlet.envs.{module.name}")).items():
            if isinstance(thing, type) and issubclass(thing, Env) and thing.__module__.endswith("." + module.name):
                try:
                    found[name] = thing()
                except TypeError:  # abstract, or with options that have no default
                    continue
    return found


ENVIRONMENTS = known_environments()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_it_passes_pettingzoos_own_tests(name):
    env = ENVIRONMENTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(ParallelMarlet(env), num_cycles=60)
        parallel_seed_test(lambda: ParallelMarlet(env), num_cycles=30)


def test_agents_leave_as_they_die_and_the_clock_truncates_the_rest():
    env = ParallelMarlet(Countdown())
    obs, infos = env.reset(seed=1)
    assert env.agents == ["agent_0", "agent_1", "agent_2", "agent_3"]
    np.testing.assert_array_equal(infos["agent_1"]["action_mask"], [1, 0, 1])
    assert env.metadata["teams"] == {"agent_0": 0, "agent_1": 0, "agent_2": 1, "agent_3": 1}
    assert env.render() == "t = 0"

    _, reward, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, 0))
    assert reward == {"agent_0": 1, "agent_1": 11, "agent_2": 21, "agent_3": 31}
    assert not any(terminated.values())
    assert not any(truncated.values())

    obs, reward, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, 0))
    assert terminated == {"agent_0": True, "agent_1": False, "agent_2": False, "agent_3": False}
    assert env.agents == ["agent_1", "agent_2", "agent_3"]
    assert obs["agent_0"][0] == 2

    env.step(dict.fromkeys(env.agents, 0))
    obs, reward, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, 0))
    assert reward == {"agent_2": 24, "agent_3": 34}
    assert terminated == {"agent_2": True, "agent_3": False}
    assert truncated == {"agent_2": False, "agent_3": True}
    assert env.agents == []
    np.testing.assert_array_equal(env.state()[0], 4)
    with pytest.raises(MarletError, match="call `reset`"):
        env.step({})


def test_episodes_differ_without_a_seed_and_repeat_with_one():
    env = ParallelMarlet(Countdown(), seed=5)
    luck = [float(env.reset()[0]["agent_0"][2]) for _ in range(3)]
    assert len(set(luck)) == 3
    again = ParallelMarlet(Countdown(), seed=5)
    assert [float(again.reset()[0]["agent_0"][2]) for _ in range(3)] == luck
    assert env.reset(seed=9)[0]["agent_0"][2] == again.reset(seed=9)[0]["agent_0"][2]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"agent_0": 0}, "'agent_1' is alive, but was given no action"),
        ({"agnt_0": 0}, "Did you mean 'agent_0'"),
    ],
)
def test_actions_must_be_of_the_living(actions, message):
    env = ParallelMarlet(Countdown())
    env.reset()
    with pytest.raises(MarletError, match=message):
        env.step(actions)


@pytest.mark.parametrize(
    ("continuous", "action"),
    [
        *[(False, action) for action in (3, 99, -3, 1.5, 1.0, "1", True, None, [1, 1])],
        *[(True, action) for action in ([0, 0], [0, 0, np.nan], [0, np.inf, 0], 0.5, ["a", "b", "c"])],
    ],
)
def test_actions_that_there_are_not_are_refused(continuous, action):
    env = ParallelMarlet(Countdown(continuous=continuous))
    env.reset()
    good = np.zeros(3, np.float32) if continuous else np.int64(1)
    with pytest.raises(MarletError, match=r"'agent_2' was given the action .*, which is not in (Box|Discrete)"):
        env.step(dict.fromkeys(env.agents, good) | {"agent_2": action})
    env.step(dict.fromkeys(env.agents, good))


def test_steps_are_traced_once():
    traces = []

    @dataclass(frozen=True)
    class Counted(Countdown):
        def step(self, state, action, *, key):
            traces.append("step")
            return super().step(state, action, key=key)

    counted = Counted()
    for env in [ParallelMarlet(counted), ParallelMarlet(counted)]:
        for seed in range(3):
            env.reset(seed=seed)
            while env.agents:
                env.step(dict.fromkeys(env.agents, 1))
    assert traces == ["step"]


@pytest.mark.parametrize("continuous", [False, True])
def test_there_and_back_again(continuous):
    """Marlet to PettingZoo to Marlet's arrays: the same steps, with agents that die, masks and teams."""
    env = Countdown(continuous=continuous)
    copy = Copy(lambda: ParallelMarlet(env))
    assert copy.facts.teams == env.spec.teams
    assert copy.facts.horizon == env.spec.horizon
    out = {name: np.zeros(shape, kind) for name, (shape, kind) in fields(copy.facts).items()}
    copy.reset(3, out)
    key, reset_key = jax.random.split(jax.random.key(3))
    state, step = env.reset(key=reset_key)
    action = np.zeros((4, 3) if continuous else 4, np.float32 if continuous else np.int32)
    dead_before = np.zeros(4, bool)
    for _ in range(4):
        for name, value in out.items():
            expected = np.array(vars(step)[name])
            if name == "obs":
                expected[dead_before] = 0
            np.testing.assert_array_equal(value, expected, err_msg=name)
        dead_before = ~np.asarray(step.alive)
        key, step_key = jax.random.split(key)
        state, step = env.step(state, action, key=step_key)
        over = copy.step(action, out)
    assert over
    assert out["truncated"]
    assert out["alive"].tolist() == [False, False, False, True]
