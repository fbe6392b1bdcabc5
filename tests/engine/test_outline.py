"""What tracing tells of an algorithm: its metrics, and whether anything it does depends on the state."""

from dataclasses import dataclass

import jax.numpy as jnp
import pytest

import marlet
from marlet.algorithms.base import Algorithm
from marlet.bridges.resolve import Factory
from marlet.engine.host_train import HostTraining
from marlet.engine.outline import outline
from marlet.errors import EnvironmentFault

SMALL = {"envs": 2, "length": 3, "hidden": (4,)}
SPEC = marlet.Spread(agents=2).spec


@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("ippo", False),
        ("mappo", True),  # by its critic
        ("ia2c", False),
        ("maa2c", True),
        ("iql", False),  # its replay holds states
        ("vdn", False),
        ("qmix", True),  # by its mixer
    ],
)
def test_who_reads_the_state(name, reads, memory):
    assert outline(getattr(marlet, name)(memory=memory, **SMALL), SPEC).reads_state == reads


@pytest.mark.parametrize("name", ["tabular_iql", "central_q", "jal", "wolf_phc", "minimax_q"])
def test_who_says_it_never_looks_at_the_state_does_not(name):
    """Its environment's states are not checked while it trains."""
    rule = getattr(marlet, name)()
    env = marlet.Matrix(game="matching_pennies") if name == "minimax_q" else marlet.TwoStep()
    assert not rule.reads_state()
    assert not outline(rule, env.spec).reads_state


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
    found = outline(Rumour(hears=hears, tells=tells), SPEC)
    assert found.reads_state == reads
    assert found.metrics == ("told",)


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
