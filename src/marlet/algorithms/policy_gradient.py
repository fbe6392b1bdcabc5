"""What all on-policy policy gradients with critics share: who sees what, advantages, and the losses of actors and critics."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from marlet.algorithms.base import Algorithm, needs_sequences
from marlet.equations.returns import continues, lambda_returns
from marlet.equations.schedules import counted, linear
from marlet.errors import MarletError
from marlet.options import option
from marlet.parts.descent import (
    Loss,
    States,
    Teams,
    as_single_steps,
    descend,
    mean_of,
    numbers_of,
    rested,
    standardised,
)
from marlet.parts.experience import Seen, cuts_of, outputs_after
from marlet.parts.heads import Action, Categorical, Gaussian, Head, head_for
from marlet.parts.nets import Team, team_of, two_headed, uses_of
from marlet.parts.normalisers import Normaliser, PopArt, Statistics
from marlet.parts.shards import averaged
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step, Transition


class Learned(eqx.Module):
    """All that training changes. The optimisers' states lead with the copies of their networks, as these do."""

    actor: Team
    critic: Team
    actor_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    statistics: Statistics
    """Of the returns, by which the critic's outputs are scaled."""
    steps: Int[Array, ""]
    """Environment steps so far: schedules depend on it."""
    spec: Spec = eqx.field(static=True)


class Lessons(eqx.Module):
    """What is learned from a rollout, in K sequences of L steps: the rollout itself where there is a memory, else its
    single steps, which may be shuffled."""

    obs: Float[Array, "L K n d"]
    seen: Float[Array, "L K n c"]
    """What the critic sees."""
    available: Bool[Array, "L K n a"]
    action: Int[Array, "L K n"] | Float[Array, "L K n a"]
    log_prob: Float[Array, "L K n"]
    """Of the action, when it was chosen."""
    advantage: Float[Array, "L K n"]
    value: Float[Array, "L K n"]
    """What the critic said, in its units; rescaled where the critic was."""
    target: Float[Array, "L K n"]
    """What it should have said."""
    acts: Bool[Array, "L K n"]
    """The actor learns from this entry."""
    counts: Bool[Array, "L K n"]
    """The critic learns from this entry."""
    first: Bool[Array, "L K"]
    actor_memory: Float[Array, "1 K n m"]
    """Before the sequence."""
    critic_memory: Float[Array, "1 K n m"]

    def of(self, agent: Int[Array, ""]) -> "Lessons":
        """What one agent learns from, with n = 1."""
        only = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, agent, axis=2)  # noqa: E731
        return jax.tree.map(lambda leaf: leaf if leaf is self.first else only(leaf), self)

    def chosen_by(self, actor: Team) -> Float[Array, "L K n o"]:
        """What an actor says of the choice to make at each step."""
        return actor.unroll(self.actor_memory[0], self.obs, self.first)[1]

    def judged_by(self, critic: Team) -> Float[Array, "L K n"]:
        """What a critic says each step is worth, in its units."""
        return critic.unroll(self.critic_memory[0], self.seen, self.first)[1][..., 0]


@dataclass(frozen=True)
class PolicyGradient(Algorithm):
    """What all policy gradients share: who sees what, advantages, and the losses of actors and critics."""

    envs: int = option(32, "environments stepped side by side", low=1)
    length: int = option(25, "steps of each environment between two rounds of learning", low=1)
    critic_sees: str = option(
        "obs",
        "what the critic is told of each agent's step; hidden: what the actor's memory holds, or the last of its `hidden` "
        "layers where it has none: the two share all before it",
        choices=("obs", "state", "both", "hidden"),
    )
    team_reward: bool = option(False, "learn from the mean reward of an agent's team instead of its own")
    sharing: str = option("shared", "which agents use one network", choices=("shared", "own", "kinds"))
    hidden: tuple[int, ...] = option((64, 64), "units of each hidden layer", low=1)
    activation: str = option("tanh", "of the hidden layers", choices=("relu", "tanh"))
    memory: int = option(0, "units of the recurrent memory of actor and critic; 0 for none", low=0)
    cell: str = option("gru", "of that memory: a GRU, or a minimal one that is linear in it", choices=("gru", "linear"))
    hidden_after: tuple[int, ...] = option(
        (), "units of each layer after that memory, which actor and critic do not share", low=1
    )
    sees_index: bool = option(True, "whether agents that share a network are told which one they are")
    head: Head = option(Gaussian(), "the distribution of continuous actions; choices are always categorical")
    discount: float = option(0.95, "worth of a reward one step later", low=0.0, high=1.0)
    decay: float = option(0.95, "lambda: how far beyond one step advantages look", low=0.0, high=1.0)
    reward_scale: float = option(
        1.0, "factor on rewards before they are learned from; what is reported keeps its units"
    )
    normaliser: Normaliser = option(PopArt(), "how the critic's outputs are scaled")
    standardise: bool = option(True, "bring advantages to mean 0 and spread 1 before learning from them")
    learning_rate: float = option(1e-3, "step size of Adam at the beginning", low=0.0)
    learning_rate_end: float = option(1e-4, "step size of Adam at the end", low=0.0)
    learning_rate_steps: int = option(
        5_000_000, "environment steps over which it falls; 0: it is the end's at once", low=0
    )
    max_gradient: float = option(
        0.5, "longest gradient of a network; longer ones are shortened to it (clipping by norm); 0: no limit", low=0.0
    )
    epochs: int = option(4, "passes over a rollout", low=1)
    minibatches: int = option(4, "parts of a rollout, each of which makes one gradient step", low=1)
    clip: float = option(
        0.2, "farthest that a pass may profit from moving an action's probability, as a ratio", low=0.0
    )
    value_clip: float = option(
        0.0, "farthest that a pass may profit from moving a value, in the critic's units; 0: no limit", low=0.0
    )
    huber: float = option(0.0, "error beyond which the critic's loss grows linearly; 0: it is the square", low=0.0)
    entropy: float = option(0.01, "weight of the policy's entropy at the beginning", low=0.0)
    entropy_end: float = option(0.01, "weight of the policy's entropy at the end", low=0.0)
    entropy_steps: int = option(1_000_000, "environment steps over which that weight falls", low=0)

    def check(self, spec: Spec) -> None:
        if spec.continuous and isinstance(self.head, Categorical):
            raise MarletError(
                f"{self.name}: head is 'categorical', but this environment's actions are vectors of size "
                f"{spec.num_actions}. Use 'gaussian' or 'squashed'."
            )
        needs_sequences(self.name, self.minibatches, self.envs, self.envs * (1 if self.memory else self.length))

    def init(self, spec: Spec, *, key: Key) -> Learned:
        actor_key, critic_key = jax.random.split(key)
        uses = uses_of(self.sharing, spec)
        sees_index = self.sees_index and len(set(uses)) < spec.num_agents
        make = partial(
            team_of,
            uses,
            hidden=self.hidden,
            memory_size=self.memory,
            after=self.hidden_after,
            cell=self.cell,
            sees_index=sees_index,
            activation=self.activation,
        )
        d, s = spec.obs_shape[0], spec.state_size
        actor = make(d, outputs=head_for(spec, self.head).outputs(spec.num_actions), last_scale=0.01, key=actor_key)
        if self.critic_sees == "hidden":
            held = (*actor.copies.after, actor.copies.last)[0].weight.shape[-2]
            critic = team_of(uses, held, (), 0, 1, after=self.hidden_after, activation=self.activation, key=critic_key)
        else:
            critic = make({"obs": d, "state": s, "both": s + d}[self.critic_sees], outputs=1, key=critic_key)
        return Learned(
            actor=actor,
            critic=critic,
            actor_optimiser=rested(actor, self.max_gradient),
            critic_optimiser=rested(critic, self.max_gradient),
            statistics=self.normaliser.init(critic),
            steps=jnp.zeros((), jnp.int32),
            spec=spec,
        )

    def shared_by(self, devices: int) -> bool:
        sequences = self.envs * (1 if self.memory else self.length)
        return self.envs % devices == 0 and sequences % (devices * self.minibatches) == 0

    def reads_state(self) -> bool:
        return self.critic_sees in ("state", "both")

    def blank(self, learned: Learned, batch: int) -> Memory:
        return learned.actor.blank(batch), learned.critic.blank(batch)

    def act(
        self, learned: Learned, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Action, dict[str, Float[Array, "B n"]]]:
        head = head_for(learned.spec, self.head)
        actor_memory, critic_memory = memory
        actor_memory, outputs = learned.actor.step(actor_memory, step.obs)
        if greedy:
            return (actor_memory, critic_memory), head.mode(outputs, step.available), {}
        action = head.draw(outputs, step.available, key=key)
        if self.memory and self.critic_sees != "hidden":
            critic_memory, _ = learned.critic.step(critic_memory, self._seen(step))
        log_prob = head.log_prob(outputs, step.available, action)
        return (actor_memory, critic_memory), action, {"log_prob": log_prob}

    def update(self, learned: Learned, rollout: Rollout, *, key: Key) -> tuple[Learned, Metrics]:
        learned = replace(learned, steps=counted(learned.steps, rollout.steps))
        learned, lessons, metrics = self._lessons(learned, rollout)
        learned, learning = self._improved(learned, lessons, rollout.axis, key=key)
        return learned, metrics | learning

    @abstractmethod
    def _improved(self, learned: Learned, lessons: Lessons, axis: str | None, *, key: Key) -> tuple[Learned, Metrics]:
        """Actors and critics after the passes over a rollout."""

    def _lessons(self, learned: Learned, rollout: Rollout) -> tuple[Learned, Lessons, Metrics]:
        """Advantages and targets of a rollout; the statistics take its returns in, once."""
        t = rollout.transitions
        steps = t.first.shape[0]
        actor_memory, critic_memory = rollout.memory
        seen, cuts = self._seen(t.now), cuts_of(t, learned.spec)
        if self.critic_sees == "hidden":
            judge, judge_memory = two_headed(learned.actor, learned.critic), actor_memory
        else:
            judge, judge_memory = learned.critic, critic_memory
        memories, outputs = judge.unroll(judge_memory, seen, t.first)
        last = self._seen(jax.tree.map(lambda leaf: leaf[-1], t.next))
        next_outputs = outputs_after(judge, memories, outputs, last, self._seen(cuts.seen), cuts)
        real = lambda output: self.normaliser.real(learned.statistics, learned.critic, output[..., -1])  # noqa: E731
        value, next_value = real(outputs), real(next_outputs)

        reward, counts, lives = self._earned(learned.spec, t)
        goes_on = continues(t.first)[..., None] & lives
        returns = lambda_returns(
            self.reward_scale * reward, jnp.where(lives, next_value, 0.0), goes_on, self.discount, self.decay
        )
        advantage = returns - value
        axis = rollout.axis
        statistics, critic = self.normaliser.update(learned.statistics, learned.critic, returns, counts, axis)
        lessons = Lessons(
            obs=t.now.obs,
            seen=seen,
            available=t.now.available,
            action=t.action,
            log_prob=t.extra["log_prob"],
            advantage=standardised(advantage, t.now.alive, learned.actor.uses, axis) if self.standardise else advantage,
            value=outputs[..., -1]
            if critic is learned.critic
            else self.normaliser.normalised(statistics, critic, value),
            target=self.normaliser.normalised(statistics, critic, returns),
            acts=t.now.alive,
            counts=counts,
            first=t.first,
            actor_memory=self._begun(actor_memory, steps),
            critic_memory=self._begun(critic_memory, steps),
        )
        if not self.memory:
            lessons = as_single_steps(lessons)
        number = numbers_of(counts, learned.spec, axis)
        metrics = {"value": mean_of(value, counts, number), "error": mean_of(jnp.abs(advantage), counts, number)}
        return replace(learned, statistics=statistics, critic=critic), lessons, averaged(metrics, axis)

    def _actor_loss(
        self,
        learned: Learned,
        outputs: Float[Array, "L K n o"],
        lessons: Lessons,
        key: Key,
        number: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Less the clipped gain (Schulman et al. 2017, arXiv:1707.06347, equation 7) and the entropy bonus, from the
        actor's outputs."""
        head = head_for(learned.spec, self.head)
        entropy_weight = linear(learned.steps, self.entropy, self.entropy_end, self.entropy_steps)
        change = head.log_prob(outputs, lessons.available, lessons.action) - lessons.log_prob
        ratio = ratio_of(jnp.where(lessons.acts, change, 0.0))
        bounded = jnp.clip(ratio, 1 - self.clip, 1 + self.clip)
        gain = jnp.minimum(ratio * lessons.advantage, bounded * lessons.advantage)
        mean = partial(mean_of, counts=lessons.acts, number=number)
        entropy = mean(head.entropy(outputs, lessons.available, key=key))
        loss = -mean(gain) - entropy_weight * entropy
        return loss, {"entropy": entropy, "clipped": mean(jnp.abs(ratio - 1) > self.clip)}

    def _critic_loss(
        self, value: Float[Array, "L K n"], lessons: Lessons, number: Float[Array, ""] | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The squared or Huber error of the values, in the critic's units."""
        measure = (
            (lambda error: optax.losses.huber_loss(error, delta=self.huber)) if self.huber else (lambda e: e**2 / 2)
        )
        loss = measure(value - lessons.target)
        if self.value_clip:
            near = lessons.value + jnp.clip(value - lessons.value, -self.value_clip, self.value_clip)
            loss = jnp.maximum(loss, measure(near - lessons.target))
        loss = mean_of(loss, lessons.counts, number)
        return loss, {"loss": loss}

    def _descend(
        self,
        loss: Loss,
        learned: Learned,
        teams: Teams,
        states: States,
        lessons: Lessons,
        axis: str | None,
        *,
        key: Key,
    ) -> tuple[Teams, States, Metrics]:
        return descend(
            loss,
            teams,
            states,
            lessons,
            max_gradient=self.max_gradient,
            learning_rate=linear(learned.steps, self.learning_rate, self.learning_rate_end, self.learning_rate_steps),
            epochs=self.epochs,
            minibatches=self.minibatches,
            axis=axis,
            key=key,
        )

    def _begun(self, memory: Float[Array, "B n m"], steps: int) -> Float[Array, "L B n m"]:
        """Memories before each sequence: before the rollout, or, where there are none, nothing before each step."""
        return memory[None] if self.memory else jnp.broadcast_to(memory, (steps, *memory.shape))

    def _seen(self, step: Step | Seen) -> Float[Array, "*batch n c"]:
        """What the critic is told of each agent."""
        if not self.reads_state():
            return step.obs
        state = jnp.broadcast_to(step.state[..., None, :], (*step.obs.shape[:-1], step.state.shape[-1]))
        return state if self.critic_sees == "state" else jnp.concatenate([state, step.obs], axis=-1)

    def _earned(
        self, spec: Spec, t: Transition
    ) -> tuple[Float[Array, "T B n"], Bool[Array, "T B n"], Bool[Array, "T B n"]]:
        """The reward each critic predicts, and whether it had anything to predict before and after the action."""
        if not self.team_reward:
            return t.next.reward, t.now.alive, t.next.alive
        mates = jnp.array(spec.teams)[:, None] == jnp.array(spec.teams)
        any_mate = lambda flags: (flags[..., None, :] & mates).any(-1)  # noqa: E731
        reward = jnp.einsum("ij,...j->...i", mates / mates.sum(-1, keepdims=True), t.next.reward)
        return reward, any_mate(t.now.alive), any_mate(t.next.alive)


def ratio_of(change: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """How much likelier, from a difference of log-probabilities; within e^20, since infinity times 0 is no number."""
    return jnp.exp(jnp.clip(change, -20.0, 20.0))
