"""What an algorithm is: pure functions that create, use and improve everything that training changes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float, Int, PyTree

from marlet.errors import MarletError
from marlet.options import check_options, option
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step

Learned = Any


@dataclass(frozen=True)
class Algorithm(ABC):
    """A learning rule. A family is a frozen dataclass whose fields are its options, made with `option`.

    `Learned` is one tree of arrays that holds all that training changes: networks or tables, targets, the
    optimiser, the replay, counters. Nothing else is kept between calls, so saving it is saving everything.
    """

    name: str = option("", "what tables and curves call it")
    envs: int = option(8, "environments stepped side by side", low=1)
    length: int = option(25, "steps of each environment between two updates", low=1)

    def __post_init__(self):
        check_options(self)

    @abstractmethod
    def check(self, spec: Spec) -> None:
        """Refuse an environment this rule does not fit, with the cause and the cure, before anything is compiled."""

    @abstractmethod
    def init(self, spec: Spec, *, key: Key) -> Learned:
        """All that training changes, before training."""

    @abstractmethod
    def blank(self, learned: Learned, batch: int) -> Memory:
        """Memories of the agents of `batch` environments at an episode's start, led by `B`; () if none."""

    @abstractmethod
    def act(
        self, learned: Learned, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"] | Float[Array, "B n a"], PyTree[Array]]:
        """The actions of all agents of all environments (every array of `step` leads with `B`), and what to note."""

    @abstractmethod
    def update(self, learned: Learned, rollout: Rollout, *, key: Key) -> tuple[Learned, Metrics]:
        """Learn from T steps of B environments. Metrics are scalars, means over what was learned from."""

    def shared_by(self, devices: int) -> bool:
        """Whether `update` can learn from rollouts that so many devices share, by averaging over `rollout.axis`."""
        return devices == 1

    def reads_state(self) -> bool:
        """Whether choosing or learning may look at the world's state. Where neither does, no environment is asked for its
        own: that would cost time, and room in the replay."""
        return True

    def tables(self, learned: Learned) -> Float[Array, "tables entries a"] | None:
        """The action values entry by entry, where they are kept in tables: they can be drawn. None elsewhere."""
        return None


def needs_choices(name: str, spec: Spec) -> None:
    """Refuse continuous actions.

    Raises:
        MarletError: naming the algorithm, the size and the cure.
    """
    if spec.continuous:
        raise MarletError(
            f"{name} chooses among discrete actions, but this environment's actions are continuous vectors of size "
            f"{spec.num_actions}. Use an algorithm for continuous actions, such as mappo or maddpg."
        )


def needs_one_team(name: str, spec: Spec, *, cure: str) -> None:
    """Refuse agents with opposed aims where one value stands for all.

    Raises:
        MarletError: naming the algorithm, the teams and the cure.
    """
    teams = len(set(spec.teams))
    if teams > 1:
        raise MarletError(
            f"{name} learns one value for one team, but this environment has {teams} teams. {cure} "
            "Or let it play one of them, and say by --versus what plays the others."
        )


def needs_sequences(name: str, minibatches: int, envs: int, sequences: int) -> None:
    """Refuse more minibatches than there are sequences: each would be empty, and nothing learned.

    Raises:
        MarletError: naming the algorithm, the numbers and the cure.
    """
    if minibatches > sequences:
        raise MarletError(
            f"{name}: minibatches is {minibatches}, but a rollout of {envs} environments has {sequences} sequences to "
            "part. Use more envs, or fewer minibatches."
        )
