"""Deep Q-learning of teams: independent, summed and monotonically mixed action values, as one family."""

from dataclasses import dataclass, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from marlet.algorithms.base import Algorithm, needs_choices, needs_one_team
from marlet.equations.choices import chosen, epsilon_greedy, masked
from marlet.equations.returns import continues, n_step_returns
from marlet.equations.schedules import counted, linear
from marlet.errors import MarletError
from marlet.options import changed, option
from marlet.parts.descent import mean_of, moved, numbers_of, once, optimiser
from marlet.parts.experience import Experience
from marlet.parts.mixers import Apart, Mixer, Monotonic, Sum
from marlet.parts.nets import Team, soft_update, team_of, uses_of
from marlet.parts.replay import Replay
from marlet.parts.shards import apart, averaged, own_share
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step

EPS = 1e-8
"""Adam's own: values move by small gradients too."""


class Weights(eqx.Module):
    """What the gradient changes: the agents' networks and the mixer's own weights."""

    team: Team
    mixer: PyTree[Array]


class Learned(eqx.Module):
    """All that training changes."""

    online: Weights
    target: Weights
    optimiser: optax.OptState
    replay: Replay
    steps: Int[Array, ""]
    """Environment steps so far: exploration depends on it."""
    updates: Int[Array, ""]
    spec: Spec = eqx.field(static=True)


@dataclass(frozen=True)
class QLearning(Algorithm):
    """Deep Q-learning whose agents' values are joined by a mixer, from a replay of sequences.

    The target of each joined value is the n-step return of the mean reward, bootstrapped from a target network at the
    best legal next action. Truncation bootstraps from the final step; death does not; agents that are dead are not
    trained on.
    """

    envs: int = option(8, "environments stepped side by side", low=1)
    length: int = option(5, "steps of each environment between two rounds of learning; the replay's sequence", low=1)
    mixer: Mixer = option(Apart(), "how the agents' values are joined; apart: not at all, without mixing")
    sharing: str = option("shared", "which agents use one network", choices=("shared", "own", "kinds"))
    hidden: tuple[int, ...] = option((64, 64), "units of each hidden layer", low=1)
    memory: int = option(0, "units of the recurrent memory; 0 for none", low=0)
    cell: str = option("gru", "of that memory: a GRU, or a minimal one that is linear in it", choices=("gru", "linear"))
    sees_index: bool = option(True, "whether agents that share a network are told which one they are")
    discount: float = option(0.9, "worth of a reward one step later", low=0.0, high=1.0)
    reward_scale: float = option(
        1.0, "factor on rewards before they are learned from; what is reported keeps its units"
    )
    n_step: int = option(1, "rewards summed before bootstrapping, at most `length`", low=1)
    double: bool = option(True, "choose the next action by the online network, value it by the target network")
    learning_rate: float = option(3e-3, "step size of Adam at the beginning", low=0.0)
    learning_rate_end: float = option(3e-4, "step size of Adam at the end", low=0.0)
    learning_rate_steps: int = option(
        1_000_000, "environment steps over which it falls; 0: it is the end's at once", low=0
    )
    max_gradient: float = option(
        10.0, "longest gradient; longer ones are shortened to it (clipping by norm); 0: no limit", low=0.0
    )
    batch: int = option(32, "sequences a gradient step learns from", low=1)
    updates: int = option(1, "gradient steps after each rollout", low=1)
    capacity: int = option(100_000, "transitions the replay holds", low=1)
    warmup: int = option(5_000, "environment steps before learning begins", low=0)
    target_rate: float = option(0.02, "how far the target network moves towards the online one", low=0.0, high=1.0)
    target_period: int = option(1, "gradient steps between two moves of the target network", low=1)
    epsilon_start: float = option(1.0, "chance of a random action at the beginning", low=0.0, high=1.0)
    epsilon_end: float = option(0.05, "chance of a random action at the end", low=0.0, high=1.0)
    epsilon_steps: int = option(100_000, "environment steps over which that chance falls", low=0)

    def check(self, spec: Spec) -> None:
        name = self.name or "Q-learning"
        needs_choices(name, spec)
        if self.n_step > self.length:
            raise MarletError(
                f"{name}: n_step is {self.n_step}, but the replay's sequences have {self.length} steps (length). "
                "Give a larger length or a smaller n_step."
            )
        if self.mixer.joins:
            needs_one_team(name, spec, cure="Use iql, which gives each agent a value of its own.")

    def init(self, spec: Spec, *, key: Key) -> Learned:
        team_key, mixer_key = jax.random.split(key)
        uses = uses_of(self.sharing, spec)
        team = team_of(
            uses,
            spec.obs_shape[0],
            self.hidden,
            self.memory,
            spec.num_actions,
            key=team_key,
            cell=self.cell,
            sees_index=self.sees_index and len(set(uses)) < spec.num_agents,
        )
        online = Weights(team=team, mixer=self.mixer.init(spec, key=mixer_key))
        return Learned(
            online=online,
            target=jax.tree.map(jnp.copy, online),
            optimiser=optimiser(self.max_gradient, EPS).init(online),
            replay=Replay.empty(spec, length=self.length, memory=self.memory, envs=self.envs, capacity=self.capacity),
            steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
            spec=spec,
        )

    def shared_by(self, devices: int) -> bool:
        return self.envs % devices == 0 and self.batch % devices == 0

    def reads_state(self) -> bool:
        return self.mixer.reads_state

    def blank(self, learned: Learned, batch: int) -> Memory:
        return learned.online.team.blank(batch)

    def act(
        self, learned: Learned, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"], tuple[()]]:
        memory, values = learned.online.team.step(memory, step.obs)
        epsilon = 0.0 if greedy else linear(learned.steps, self.epsilon_start, self.epsilon_end, self.epsilon_steps)
        return memory, epsilon_greedy(values, step.available, epsilon, key=key), ()

    def update(self, learned: Learned, rollout: Rollout, *, key: Key) -> tuple[Learned, Metrics]:
        replay = learned.replay.add(rollout, learned.spec)
        steps = counted(learned.steps, rollout.steps)
        learning_rate = linear(steps, self.learning_rate, self.learning_rate_end, self.learning_rate_steps)
        parts = (learned.online, learned.target, learned.optimiser, learned.updates)

        def improve(parts):
            return jax.lax.scan(
                lambda parts, key: self._improve(parts, replay, learning_rate, learned.spec, rollout.axis, key=key),
                parts,
                jax.random.split(key, self.updates),
            )

        parts, metrics = once(steps >= self.warmup, improve, parts)
        online, target, state, updates = parts
        learned = replace(
            learned, online=online, target=target, optimiser=state, updates=updates, replay=replay, steps=steps
        )
        return learned, jax.tree.map(jnp.mean, metrics)

    def _improve(
        self, parts, replay: Replay, learning_rate: Float[Array, ""], spec: Spec, axis: str | None, *, key: Key
    ):
        """One gradient step on sequences from the replay, and a move of the target network."""
        online, target, state, updates = parts
        sequences = replay.sample(own_share(self.batch, axis), key=apart(key, axis))
        number = numbers_of(self.mixer.lives(sequences.alive), spec, axis)
        gradient, metrics = averaged(jax.grad(self._loss, has_aux=True)(online, target, sequences, number), axis)
        direction, state = optimiser(self.max_gradient, EPS).update(gradient, state)
        online = moved(online, direction, learning_rate)
        updates = updates + 1
        rate = jnp.where(updates % self.target_period == 0, self.target_rate, 0.0)
        target = soft_update(target, online, rate)
        return (online, target, state, updates), metrics | {"gradient": optax.tree.norm(gradient)}

    def _loss(
        self, online: Weights, target: Weights, e: Experience, number: Float[Array, ""] | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The mean squared error of the joined values over what was alive."""
        memories, values = online.team.unroll(e.memory, e.now.obs, e.first)
        taken = jnp.where(e.alive, chosen(values, e.action), 0.0)
        predicted = self.mixer.mix(online.mixer, taken, e.now.state)

        next_values = choosing = e.outputs_after(target.team, *target.team.unroll(e.memory, e.now.obs, e.first))
        if self.double:
            choosing = e.outputs_after(*jax.lax.stop_gradient((online.team, memories, values)))
        best = jnp.argmax(masked(choosing, e.next.available), axis=-1)
        next_taken = jnp.where(e.next_alive, chosen(next_values, best), 0.0)
        next_joined = self.mixer.mix(target.mixer, next_taken, e.next.state)
        next_joined = jnp.where(self.mixer.lives(e.next_alive), next_joined, 0.0)

        goes_on = jnp.broadcast_to(continues(e.first)[..., None], next_joined.shape)
        returns = n_step_returns(
            self.reward_scale * self.mixer.share(e.reward), next_joined, goes_on, self.discount, self.n_step
        )
        error = jax.lax.stop_gradient(returns) - predicted
        mean = partial(mean_of, counts=self.mixer.lives(e.alive), number=number)
        loss = mean(error**2)
        return loss, {"loss": loss, "value": mean(predicted), "error": mean(jnp.abs(error))}


def iql(**options) -> QLearning:
    """Independent Q-learning: each agent learns alone, the others are part of its world (Tampuu et al. 2017, arXiv:1511.08779)."""
    return changed(QLearning(name="iql", mixer=Apart()), **options)


def vdn(**options) -> QLearning:
    """Value decomposition networks: the team's value is the sum of the agents' (Sunehag et al. 2017, arXiv:1706.05296)."""
    return changed(QLearning(name="vdn", mixer=Sum()), **options)


def qmix(**options) -> QLearning:
    """QMIX: the team's value is a monotone function of the agents', set by the state (Rashid et al. 2018, arXiv:1803.11485)."""
    return changed(QLearning(name="qmix", mixer=Monotonic()), **options)
