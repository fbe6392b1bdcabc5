"""Policy learners solve the tasks named for them; several seeds, thresholds far from random play and doing nothing."""

import numpy as np
import pytest
from test_deep import last

import marlet

pytestmark = pytest.mark.learn


@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [
        ("ippo", 5e6, -12.5),
        ("mappo", 5e6, -10.5),
        ("ia2c", 5e6, -13.0),
        ("maa2c", 5e6, -13.0),
        ("coma", 3e6, -20.0),
        ("mapg", 1e6, -18.5),
    ],
)
def test_spread_by_choices(name, steps, least, tmp_path):
    # Random play earns -26.4 per agent, doing nothing -24.0.
    run = marlet.train("spread", name, steps=steps, seeds=5, evaluations=2, episodes=512, out=tmp_path, quiet=True)
    assert np.median(last(run, "return")) >= least


@pytest.mark.parametrize("name", ["maddpg", "matd3", "facmac", "masac"])
def test_spread_by_vectors(name, tmp_path):
    env = marlet.Spread(continuous=True)
    run = marlet.train(env, name, steps=2e6, seeds=5, evaluations=2, episodes=512, out=tmp_path, quiet=True)
    assert np.median(last(run, "return")) >= -12.5


def test_a_trained_policy_earns_the_same_in_mpe2(tmp_path):
    run = marlet.train("spread", "mappo", steps=1e6, evaluations=1, episodes=64, out=tmp_path, quiet=True)
    ours = marlet.evaluate(run.path, episodes=4096).returns.mean()
    theirs = marlet.evaluate(run.path, "pettingzoo:mpe2.simple_spread_v3", episodes=4096).returns.mean()
    assert ours == pytest.approx(theirs, abs=0.35)  # four standard errors, episodes' returns being spread by 4


def test_speaker_and_listener_talk(tmp_path):
    """Without a word -15.8 is the best. With the words taken away the trained listener falls below -15."""
    rule = marlet.mappo(sharing="own")
    run = marlet.train(
        "speaker_listener", rule, steps=2e6, seeds=3, evaluations=2, episodes=512, out=tmp_path, quiet=True
    )
    assert np.median(last(run, "return")) >= -12.5
    assert deaf(run) < -15.0


def deaf(run) -> float:
    """The mean return of 256 episodes in which the listener never hears a word."""
    import jax
    import jax.numpy as jnp

    env, policy = marlet.SpeakerListener(), marlet.load(run.path)
    reset, step = jax.jit(lambda key: env.reset(key=key)), jax.jit(lambda s, a, key: env.step(s, a, key=key))
    total = 0.0
    for episode in range(256):
        state, said = reset(jax.random.key(episode))
        policy.reset()
        for _ in range(25):
            obs = np.array(said.obs)
            obs[1, -3:] = 0
            action = policy.act(obs, available=np.asarray(said.available))
            state, said = step(state, jnp.asarray(action), jax.random.key(0))
            total += float(said.reward.mean())
    return total / 256


def test_reinforce_comes_near_the_best_proportional_controller(tmp_path):
    """The controller earns -3.00 (tests/envs/test_reach.py), doing nothing -10.5."""
    rule = marlet.mapg(learning_rate_steps=2_000_000)
    run = marlet.train("reach", rule, steps=2e6, seeds=5, evaluations=2, episodes=512, out=tmp_path, quiet=True)
    assert np.median(last(run, "return")) >= -3.00 / 0.95


def test_a_critic_of_everyone_teaches_the_speaker_more_than_one_of_itself(tmp_path):
    speak, alone = (
        marlet.train(
            "speaker_listener",
            rule,
            steps=3e5,
            seeds=5,
            evaluations=2,
            episodes=512,
            out=tmp_path,
            quiet=True,
        )
        for rule in (marlet.maddpg(sharing="own"), marlet.iddpg(sharing="own"))
    )
    assert np.median(last(speak, "return")) >= np.median(last(alone, "return")) + 2.0
