"""Whether anything an algorithm does depends on the state, as it says and as tracing finds; what it reports; who is asked."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import marlet
from marlet import catalogue
from marlet.algorithms.base import Algorithm
from marlet.bridges.resolve import Factory
from marlet.engine.host_train import HostTraining
from marlet.engine.outline import example, metric_names, rollout_of
from marlet.errors import EnvironmentFault

SMALL = {"envs": 2, "length": 3, "hidden": (4,)}
SPEC = marlet.Spread(agents=2).spec


class Traced:
    """A function as a list of operations."""

    def __init__(self, function, *given, key):
        closed, self.result = jax.make_jaxpr(function, return_shape=True)(*given, key=key)
        self.jaxpr, self.given = closed.jaxpr, jax.tree.structure((given, key))

    def needs(self, wanted):
        """Which arrays the `wanted` ones of the results depend on, in the structure of what was given but the key."""
        return jax.tree.unflatten(self.given, dce_jaxpr(self.jaxpr, jax.tree.leaves(wanted))[1])[0]


def found_to_read(algorithm, spec):
    """Whether anything it chooses or reports depends on the state, be it by way of what it has learned.

    What matters is what the choice depends on, what those parts of `learned` depend on after an update, and so on until
    nothing is added. A replay therefore counts only by what is made of it: that states are kept in one is not yet
    reading them.
    """
    key, step = jax.random.key(0), example(spec, algorithm.envs)
    learned = jax.eval_shape(lambda key: algorithm.init(spec, key=key), key)
    memory = jax.eval_shape(lambda learned: algorithm.blank(learned, algorithm.envs), learned)
    choices = [
        Traced(partial(algorithm.act, greedy=greedy), learned, memory, step, key=key) for greedy in (False, True)
    ]
    played = rollout_of(algorithm, step, memory, *choices[0].result[1:])
    update = Traced(algorithm.update, learned, played, key=key)
    matters = jax.tree.map(lambda _: False, update.result[0])
    for choice in choices:
        learned, _, step = choice.needs(jax.tree.map(lambda _: True, choice.result))
        if step.state:
            return True
        matters = jax.tree.map(bool.__or__, matters, learned)
    while True:
        learned, rollout = update.needs((matters, jax.tree.map(lambda _: True, update.result[1])))
        if rollout.transitions.now.state or rollout.transitions.next.state:
            return True
        more = jax.tree.map(bool.__or__, matters, learned)
        if more == matters:
            return False
        matters = more


READERS = {"mappo", "happo", "maa2c", "coma", "qmix", "maddpg", "matd3", "masac", "facmac"}
"""By their critics or their mixers."""


@pytest.mark.parametrize("name", catalogue.algorithm_names())
def test_who_says_it_never_looks_at_the_state_does_not(name):
    """Its environment's states are neither asked for nor checked while it trains."""
    options = catalogue.settings(catalogue.algorithm_entry(name), {})
    env = marlet.Matrix(game="matching_pennies") if name == "minimax_q" else marlet.TwoStep()
    rule = catalogue.make_algorithm(name, {key: value for key, value in SMALL.items() if key in options})
    says = rule.reads_state()
    assert says or not found_to_read(rule, env.spec)
    assert says == (name in READERS | {"random", "idle"})  # a script of one's own is shown the whole step


@pytest.mark.parametrize(("name", "reads"), [("ippo", False), ("mappo", True), ("iql", False), ("qmix", True)])
def test_memories_change_nothing_about_it(name, reads):
    rule = getattr(marlet, name)(memory=4, **SMALL)
    assert rule.reads_state() == found_to_read(rule, SPEC) == reads


@dataclass(frozen=True)
class Rumour(Algorithm):
    """The state is told from one to the next, `a`, `b`, `c`, once an update; `d` hears nothing of it."""

    hears: str = "d"
    tells: str = "d"

    def check(self, spec): ...

    def init(self, spec, *, key):
        return dict.fromkeys("abcd", jnp.zeros(()))

    def blank(self, learned, batch):
        return ()

    def act(self, learned, memory, step, *, key, greedy=False):
        heard = step.state.sum() if self.hears == "state" else learned[self.hears]
        return (), jnp.zeros(step.alive.shape, int) + (heard > 0), ()

    def update(self, learned, rollout, *, key):
        state, reward = rollout.transitions.next.state.sum(), rollout.transitions.next.reward.sum()
        after = {"a": state, "b": learned["a"], "c": learned["b"], "d": learned["d"] + reward}
        return after, {"told": after[self.tells]}


@pytest.mark.parametrize(
    ("hears", "tells", "reads"),
    [
        ("d", "d", False),
        ("a", "d", True),
        ("b", "d", True),
        ("c", "d", True),
        ("state", "d", True),
        ("d", "a", True),
        ("d", "c", True),
    ],
)
def test_the_state_is_followed_through_what_is_learned(hears, tells, reads):
    """The search itself can tell."""
    rule = Rumour(hears=hears, tells=tells)
    assert found_to_read(rule, SPEC) == reads
    assert metric_names(rule, SPEC) == ("told",)


@pytest.mark.parametrize(("name", "asks"), [("ippo", False), ("mappo", True)])
def test_environments_are_asked_for_their_state_only_if_it_is_read(name, asks):
    training = HostTraining(Factory("host_worlds", "Secretive"), getattr(marlet, name)(**SMALL), workers=0)
    training.start()
    if asks:
        with pytest.raises(EnvironmentFault, match="somebody asked"):
            training.advance(1)
    else:
        training.advance(1)
        training.evaluate(2)
    assert training.spec.state_size == (7 if asks else 6)
