"""The axes and the records that every part of Marlet speaks in.

Axes always come in this order, and every signature uses these letters:

    T  steps of a rollout        n  agents
    B  environments              a  actions (choices, or the size of a continuous action)
    d  observed features         s  state features

A reward and an end belong to the step they led to, so that every target reads like the textbook:

    target = t.next.reward + discount * t.next.alive * value(t.next)
"""

from dataclasses import dataclass

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

Key = PRNGKeyArray
Memory = PyTree[Array]
Metrics = dict[str, Array]


@dataclass(frozen=True)
class Spec:
    """What may be known of an environment before its first step."""

    num_agents: int
    num_actions: int
    """Choices of the agent that has most, or the size of a continuous action."""
    obs_shape: tuple[int, ...]
    """Shape of one agent's observation: `(d,)`."""
    state_size: int
    """Features of the global state, which only training sees."""
    continuous: bool = False
    kinds: tuple[int, ...] = ()
    """Agents of one kind share their spaces: `(0, 0, 1)`. Filled with zeros when left out."""
    teams: tuple[int, ...] = ()
    """Agents of one team share an aim: `(0, 0, 1)`. Filled with zeros when left out."""
    names: tuple[str, ...] = ()
    """One name an agent; `agent_0`, `agent_1`, ... when left out."""
    horizon: int | None = None
    """Steps after which an episode ends at the latest; None where only deaths end it."""
    mortal: bool = True
    """Whether an agent may die. Where none can, every episode lasts exactly `horizon` steps, which saves much work."""
    levels: tuple[int, ...] = ()
    """How many values each observed feature can take, where that is few: feature k is one of
    `0, 1/(levels[k]-1), ..., 1`. Tables are indexed by it. Empty where observations cannot be counted."""

    def __post_init__(self):
        n = self.num_agents
        object.__setattr__(self, "kinds", tuple(self.kinds) or (0,) * n)
        object.__setattr__(self, "teams", tuple(self.teams) or (0,) * n)
        object.__setattr__(self, "names", tuple(self.names) or tuple(f"agent_{i}" for i in range(n)))

    def cuts(self, length: int) -> int:
        """How often the clock can cut one environment's episodes off in so many steps."""
        return length if self.mortal or self.horizon is None else -(-length // self.horizon)

    def aligned(self, length: int) -> bool:
        """Whether episodes that open together end only where a rollout of this length does."""
        return not self.mortal and self.horizon is not None and self.horizon % length == 0


class Step(eqx.Module):
    """What an environment says after a reset or an action; row i of an array is about agent i."""

    obs: Float[Array, "*batch n d"]
    state: Float[Array, "*batch s"]
    available: Bool[Array, "*batch n a"]
    """The actions that may be taken now. An agent that is not alive has all of them and none has an effect."""
    reward: Float[Array, "*batch n"]
    """For the action that led here; zero after a reset and for agents that were dead before it."""
    alive: Bool[Array, "*batch n"]
    """Still acts and earns. Once False it stays False until the next reset."""
    truncated: Bool[Array, "*batch"]
    """Cut off by the clock: rewards would have followed."""
    cost: Float[Array, "*batch n"]
    """What a constraint counts; zeros where there is none."""

    @property
    def over(self) -> Bool[Array, "*batch"]:
        """Whether the episode has ended, by the clock or because no agent is alive."""
        return self.truncated | ~self.alive.any(-1)


class Transition(eqx.Module):
    """One choice of all agents and what came of it."""

    now: Step
    action: Int[Array, "*batch n"] | Float[Array, "*batch n a"]
    next: Step
    """Before any reset: at an episode's end it is the final step, never the next episode's first."""
    first: Bool[Array, "*batch"]
    """`now` opens an episode: memories start afresh."""
    extra: PyTree[Array]
    """What the policy noted while it chose (log-probabilities, values)."""


class Rollout(eqx.Module):
    """T transitions of B environments, as an algorithm's `update` receives them."""

    transitions: Transition
    """Every array leads with `T B`."""
    memory: Memory
    """The agents' memories before the first of these transitions; every array leads with `B`."""
    axis: str | None = eqx.field(static=True, default=None)
    """The axis of devices that share the run's environments, these being one device's; None where one has them all."""

    @property
    def steps(self) -> int:
        """Environment steps, on all devices."""
        steps, batch = self.transitions.first.shape
        return steps * batch * (1 if self.axis is None else jax.lax.axis_size(self.axis))


def where(condition: Bool[Array, "*batch"], yes: PyTree, no: PyTree) -> PyTree:
    """Choose between two trees environment by environment; `condition` leads the axes of every leaf."""

    def choose(a: Shaped[Array, "..."], b: Shaped[Array, "..."]) -> Array:
        return jax.numpy.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return jax.tree.map(choose, yes, no)


def computed_once(value: PyTree[Array]) -> PyTree[Array]:
    """The same arrays, each computed once and then read. XLA computes what is cheap anew in every kernel that needs it, and
    counts a random draw or a square root among that. It holds in what the engine compiles for a CPU (`engine.devices`); other
    devices' programs stay as they are. Numbers stay but for rounding: products and sums are not joined across it."""
    return jax.lax.optimization_barrier(value) if on_cpu() else value


def on_cpu() -> bool:
    """Whether programs run on a CPU, the only device on which was measured how they run best."""
    return jax.default_backend() == "cpu"
