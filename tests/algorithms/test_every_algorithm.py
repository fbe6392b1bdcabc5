"""What holds of every algorithm: it learns from any number of unlike agents, the dead teach it nothing, or it refuses."""

import dataclasses
import json
import os
from functools import cache, partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mortal import Mortal

from marlet import catalogue
from marlet.engine.rollout import Tally, opening, rollout
from marlet.errors import MarletError
from marlet.parts.heads import Squashed
from marlet.parts.nets import Team
from marlet.parts.replay import Replay
from marlet.testing import check_env

pytestmark = pytest.mark.rough

T, B = 7, 4
NAMES = catalogue.algorithm_names()
TINY = {
    "envs": B,
    "length": T,
    "hidden": (4,),
    "critic_hidden": (4,),
    "memory": 3,
    "warmup": 0,
    "batch": 4,
    "capacity": 2 * T * B,
}
"""Options of small learners, of which each takes those that it has."""
TEAMS, VECTORS = Mortal(agents=2, teams=2), Mortal(agents=2, continuous=True)
DEEP_VALUES = {"iql", "vdn", "qmix"}
TABULAR = {"boltzmann", "central_q", "hysteretic", "jal", "minimax_q", "phc", "shared_q", "tabular_iql", "wolf_phc"}
ONE_TEAM = {"central_q", "coma", "facmac", "happo", "qmix", "vdn"}
REFUSED = {
    Mortal(agents=2): {"minimax_q"},
    TEAMS: ONE_TEAM,
    VECTORS: TABULAR | DEEP_VALUES | {"coma"},
    Mortal(agents=2, countable=False): TABULAR,
    Mortal(agents=3, teams=2): ONE_TEAM | {"minimax_q"},
    Mortal(agents=5): {"minimax_q", "central_q"},  # a table of what all five observe would be too large
}
"""The learners that must say no to a world."""
ONE_OF_EACH = ["boltzmann", "central_q", "coma", "happo", "ippo", "jal", "maddpg", "minimax_q", "qmix", "wolf_phc"]
"""A learner for each rule that is written down: the others are the same with other options."""
JOINT = {"central_q", "coma", "jal", "minimax_q"}
"""They learn what joint actions are worth as long as one agent lives; the actions of the dead stand in those."""


def made(name, **options):
    """A small learner, with a memory where it can have one."""
    known = catalogue.algorithm_entry(name).options
    return catalogue.make_algorithm(name, {key: value for key, value in (TINY | options).items() if key in known})


def learn(algorithm, env):
    """A learner and its metrics after a rollout; and that rollout."""
    learned = algorithm.init(env.spec, key=jax.random.key(0))
    world = opening(env, algorithm, learned, B, key=jax.random.key(1))
    _, _, played = rollout(
        env, algorithm, learned, world, Tally.empty(B, env.spec.num_agents), T, key=jax.random.key(2)
    )
    return *algorithm.update(learned, played, key=jax.random.key(3)), played


def numbers(learned):
    """All that decides what is done next; what a replay keeps of the dead is not read."""
    parts = jax.tree.leaves(learned, is_leaf=lambda part: isinstance(part, Replay))
    return [part for part in parts if not isinstance(part, Replay) and jnp.issubdtype(part.dtype, jnp.floating)]


def outputs(learned):
    """The last biases of each network that gradients change, one row a copy."""
    parts, _ = jax.tree.flatten_with_path(learned, is_leaf=lambda part: isinstance(part, Team))
    followed = lambda path: "target" not in jax.tree_util.keystr(path)  # noqa: E731
    return [part.copies.last.bias for path, part in parts if isinstance(part, Team) and followed(path)]


def assert_everything_is_learned(before, after):
    """All copies of all networks have moved, to numbers."""
    assert all(np.isfinite(leaf).all() for leaf in numbers(after))
    assert not eqx.tree_equal(numbers(after), numbers(before))
    assert all((new != old).any(-1).all() for new, old in zip(outputs(after), outputs(before), strict=True))


def test_the_world_keeps_its_contract_and_has_all_that_is_to_be_tested():
    world = Mortal(agents=2)
    check_env(world)
    _, _, played = jax.jit(partial(learn, made("random"), world))()
    t = played.transitions
    assert t.next.truncated.any()
    assert (~t.next.alive.any(-1)).any()
    assert (t.now.alive.any(-1) & ~t.now.alive.all(-1)).any()
    assert not t.now.available[..., 1, 2][t.now.alive[..., 1]].any()


@pytest.mark.parametrize(("name", "n"), [(name, 5) for name in NAMES] + [(name, 1) for name in ONE_OF_EACH])
def test_any_number_of_unlike_agents_is_learned_from(name, n):
    """Seven steps of four copies, with deaths one by one and cuts inside; traced, so that no two axes can be mixed up."""
    env = TEAMS if name == "minimax_q" else Mortal(agents=n)
    algorithm = made(name)
    if name in REFUSED.get(env, ()):
        with pytest.raises(MarletError):
            algorithm.check(env.spec)
        return
    algorithm.check(env.spec)
    learned, metrics, _ = jax.eval_shape(partial(learn, algorithm, env))
    before = jax.eval_shape(partial(algorithm.init, env.spec), key=jax.random.key(0))
    assert jax.tree.structure(learned) == jax.tree.structure(before)
    for new, old in zip(jax.tree.leaves(learned), jax.tree.leaves(before), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize(
    ("name", "n", "options", "continuous"),
    [
        ("coma", 5, {}, False),
        ("happo", 5, {}, True),
        ("ippo", 1, {"memory": 3, "head": Squashed()}, True),
        ("maddpg", 1, {"sharing": "own"}, True),
        ("facmac", 2, {"sharing": "kinds"}, True),
        ("qmix", 5, {"memory": 3}, False),
    ],
)
def test_networks_learn_from_any_number_of_agents(name, n, options, continuous):
    """Computed, not only traced; by choices and by vectors. Two agents with a memory are below."""
    algorithm, env = made(name, **{"memory": 0} | options), Mortal(agents=n, continuous=continuous)

    @jax.jit
    def before_and_after():
        return algorithm.init(env.spec, key=jax.random.key(0)), learn(algorithm, env)[0]

    assert_everything_is_learned(*before_and_after())


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if "memory" in catalogue.algorithm_entry(name).options])
def test_wherever_there_is_a_memory_it_can_be_a_linear_one(name):
    """Traced: it learns, and its networks are smaller, having no product of the memory with itself."""
    learned, gru = (
        jax.eval_shape(partial(learn, made(name, cell=cell), Mortal(agents=2)))[0] for cell in ("linear", "gru")
    )
    assert sum(leaf.size for leaf in numbers(learned)) < sum(leaf.size for leaf in numbers(gru))


def altered(by, living, played):
    """The same rollout where the living, or else the dead, took other actions and noted other log-probabilities."""
    t = played.transitions
    who = t.now.alive == living
    action = jnp.where(who, (t.action + by) % jnp.where(living, 2, 3), t.action)
    extra = jax.tree.map(lambda noted: jnp.where(who, noted + by, noted), t.extra)
    return dataclasses.replace(played, transitions=dataclasses.replace(t, action=action, extra=extra))


@cache
def course(name):
    """Two programs: how a learner and its world begin, and what it learns from one more rollout, perhaps altered."""
    algorithm, env = made(name), TEAMS if name == "minimax_q" else Mortal(agents=2)

    @jax.jit
    def begin():
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        return learned, opening(env, algorithm, learned, B, key=jax.random.key(1))

    @jax.jit
    def go_on(learned, world, key, by, living):
        tally = Tally.empty(B, env.spec.num_agents)
        world, _, played = rollout(env, algorithm, learned, world, tally, T, key=key)
        learned, metrics = algorithm.update(learned, altered(by, living, played), key=key)
        return learned, world, metrics, played

    return begin, go_on


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_what_the_dead_do_teaches_nothing(name):
    """Other actions of dead agents and other log-probabilities of them: the same is learned."""
    begin, go_on = course(name)
    before, world = begin()
    taught = partial(go_on, before, world, jax.random.key(2))
    one, _, metrics, played = taught(0, False)
    assert not played.transitions.now.alive.all()
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert_everything_is_learned(before, one)
    assert eqx.tree_equal(numbers(one), numbers(taught(1, False)[0])) or name in JOINT
    assert not eqx.tree_equal(numbers(one), numbers(taught(1, True)[0]))  # negative control: the living teach


GOLDEN = Path(__file__).parent.parent / "golden" / "learned.json"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"idle", "random"}))
def test_golden_numbers_after_three_updates(name):
    """Mean size and spread of each array that is learned stay what they were. MARLET_GOLDEN=1, in one process, writes them."""
    begin, go_on = course(name)
    learned, world = begin()
    for key in jax.random.split(jax.random.key(2), 3):
        learned, world, _, _ = go_on(learned, world, key, 0, False)
    parts = jax.device_get(numbers(learned))
    sizes = [float(f"{size:.4g}") for part in parts for size in (np.abs(part).mean(), part.std())]
    kept = json.loads(GOLDEN.read_text())
    if os.environ.get("MARLET_GOLDEN") == "1":
        kept[name] = sizes
        lines = (f"{json.dumps(key)}: {json.dumps(kept[key])}" for key in sorted(kept))
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.testing.assert_allclose(sizes, kept[name], rtol=2e-3, atol=1e-6)


def test_there_is_one_of_each():
    """Those that learn nothing aside."""
    kinds = {type(catalogue.make_algorithm(name)) for name in set(NAMES) - {"idle", "random"}}
    assert {type(catalogue.make_algorithm(name)) for name in ONE_OF_EACH} == kinds


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused_in_a_sentence_that_names_the_cure(name):
    for env, refused in REFUSED.items():
        algorithm = catalogue.make_algorithm(name)
        if name not in refused:
            algorithm.check(env.spec)
            continue
        with pytest.raises(MarletError, match=r"\. (Use|Give|Let) .*\.$"):
            algorithm.check(env.spec)
