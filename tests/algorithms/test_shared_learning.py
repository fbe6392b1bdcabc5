"""Devices that share one seed learn together what one learns from all, however unevenly the agents die."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from many_runs import experience_of, imagined

from marlet.algorithms.deterministic import facmac
from marlet.algorithms.policies import ippo
from marlet.algorithms.policies_in_turns import happo
from marlet.algorithms.values import vdn
from marlet.parts.descent import numbers_of
from marlet.types import Rollout, Spec

pytestmark = pytest.mark.rough

AXIS, T, B, N = "shares", 3, 8, 2
CHOICES = Spec(num_agents=N, num_actions=3, obs_shape=(2,), state_size=2)
VECTORS = replace(CHOICES, continuous=True)


def lived(spec):
    """Half of the agents are dead in the first half of the environments, nearly all in the second, whole teams among them."""
    played = imagined(spec, T, B, ends=0.5, key=jax.random.key(0))
    t = played.transitions
    later = jnp.arange(B)[:, None] > B // 2
    return replace(played, transitions=replace(t, now=replace(t.now, alive=t.now.alive & ~later)))


def taught_on_policy(rule):
    rule = rule(envs=B, length=T, epochs=1, minibatches=1, hidden=(4,), max_gradient=1e6)
    learned = rule.init(CHOICES, key=jax.random.key(1))
    played = lived(CHOICES)
    transitions = replace(played.transitions, extra={"log_prob": jnp.full((T, B, N), -1.0)})

    def taught(transitions, axis):
        memory = rule.blank(learned, transitions.first.shape[1])
        after, metrics = rule.update(learned, Rollout(transitions, memory, axis), key=jax.random.key(2))
        return after.actor_optimiser, after.critic_optimiser, metrics

    return taught, transitions, jax.tree.map(lambda _: 1, transitions)


class Given:
    """In place of a replay: the same experience whenever it is asked."""

    def __init__(self, experience):
        self.experience = experience

    def sample(self, count, *, key):
        return self.experience


def taught_off_policy(rule, spec):
    rule = rule(batch=B, hidden=(4,), capacity=B, envs=B, length=T, max_gradient=1e6)
    learned = rule.init(spec, key=jax.random.key(1))
    experience = experience_of(lived(spec), spec)

    def taught(experience, axis):
        key, replay = jax.random.key(2), Given(experience)
        if spec.continuous:
            after, metrics = rule._improve(learned, replay, axis, key=key)
            return after.actor_optimiser, after.critic_optimiser, metrics
        parts = (learned.online, learned.target, learned.optimiser, learned.updates)
        after, metrics = rule._improve(parts, replay, jnp.float32(0.1), spec, axis, key=key)
        return after[2], metrics

    axes = jax.tree.map(lambda _: 1, experience)
    return taught, experience, replace(axes, memory=0)


@pytest.mark.parametrize(
    ("made", "given"),
    [
        *[(taught_on_policy, (rule,)) for rule in (ippo, happo)],
        (taught_off_policy, (vdn, CHOICES)),
        (taught_off_policy, (facmac, VECTORS)),
    ],
)
def test_two_learn_from_their_halves_what_one_learns_from_all(made, given):
    """The optimisers' running means hold the gradients themselves."""
    taught, whole, axes = made(*given)
    halves = jax.tree.map(lambda leaf, axis: jnp.stack(jnp.split(leaf, 2, axis)), whole, axes)
    alone = jax.jit(lambda: taught(whole, None))()
    together = jax.jit(lambda: jax.vmap(lambda part: taught(part, AXIS), axis_name=AXIS)(halves))()
    for one, two in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert jnp.allclose(two[0], two[1], rtol=1e-3, atol=1e-5)
        assert jnp.allclose(two[0], one, rtol=1e-3, atol=1e-5)


def test_where_nobody_dies_nothing_is_told():
    counts = jnp.ones((T, B, N), bool)
    told = lambda spec: str(jax.make_jaxpr(lambda: numbers_of(counts, spec, AXIS), axis_env=[(AXIS, 2)])())  # noqa: E731
    assert "psum" in told(CHOICES)
    assert "psum" not in told(replace(CHOICES, mortal=False))
