"""Off-policy actor-critics: actors follow the gradient that critics of actions give them, as one family."""

from dataclasses import dataclass, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from marlet.algorithms.base import Algorithm, needs_one_team
from marlet.equations.distributions import draw_choice, log_chances, straight_through
from marlet.equations.schedules import counted, linear
from marlet.options import changed, option
from marlet.parts.critics import Critics, as_vectors, inputs_of
from marlet.parts.descent import mean_of, moved, numbers_of, once, optimiser
from marlet.parts.experience import Experience
from marlet.parts.heads import Action, Squashed
from marlet.parts.mixers import Apart, Mixer, Monotonic
from marlet.parts.nets import Team, soft_update, team_of, uses_of
from marlet.parts.replay import Replay
from marlet.parts.shards import apart, averaged, own_share
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step

GUMBEL = 1.0
"""Temperature of the softmax that gradients of drawn choices pass through."""


class Nets(eqx.Module):
    """What gradients change, or the targets that follow it."""

    actor: Team
    critics: Critics


class Learned(eqx.Module):
    """All that training changes."""

    online: Nets
    target: Nets
    log_temperature: Float[Array, ""]
    """Of the entropy in what a soft actor maximises."""
    actor_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    replay: Replay
    steps: Int[Array, ""]
    """Environment steps so far: exploration depends on it."""
    updates: Int[Array, ""]
    spec: Spec = eqx.field(static=True)


@dataclass(frozen=True)
class ActorCritic(Algorithm):
    """Actors learn by the gradient of critics of actions, from a replay of sequences.

    Vectors come from a tanh; choices are one-hot rows, through which gradients pass by the straight-through
    Gumbel-softmax. In a critic's gradient for agent i its own action is its policy's and the others' are those that
    were taken (Lowe et al. 2017, arXiv:1706.02275, equation 6); where a mixer joins critics of single agents, all actions are
    their policies' at once (Peng et al. 2021, arXiv:2003.06709, equation 7). Nothing is noisy when greedy.
    Truncation bootstraps from the final step; death does not; agents that are dead are not trained on.
    """

    envs: int = option(8, "environments stepped side by side", low=1)
    length: int = option(5, "steps of each environment between two rounds of learning; the replay's sequence", low=1)
    critic_sees: str = option(
        "all", "the agent's own step alone, or also the state and all actions", choices=("own", "all")
    )
    mixer: Mixer = option(Apart(), "how the critics' values are joined")
    critics: int = option(1, "critics of each agent; of two the lower value is believed", low=1, high=2)
    soft: bool = option(False, "maximise entropy too, by a policy that draws, at a temperature that is learned")
    sharing: str = option("shared", "which agents use one network", choices=("shared", "own", "kinds"))
    hidden: tuple[int, ...] = option((64, 64), "units of each hidden layer of actors and critics", low=1)
    memory: int = option(0, "units of the actors' recurrent memory; 0 for none", low=0)
    cell: str = option("gru", "of that memory: a GRU, or a minimal one that is linear in it", choices=("gru", "linear"))
    sees_index: bool = option(True, "whether agents that share a network are told which one they are")
    discount: float = option(0.9, "worth of a reward one step later", low=0.0, high=1.0)
    reward_scale: float = option(
        1.0, "factor on rewards before they are learned from; what is reported keeps its units"
    )
    noise: float = option(0.6, "spread of what is added to vectors while exploring, at the beginning", low=0.0)
    noise_end: float = option(0.1, "the same at the end", low=0.0)
    noise_steps: int = option(1_000_000, "environment steps over which it falls", low=0)
    smoothing: float = option(0.0, "spread of what is added to target vectors, clipped at twice itself", low=0.0)
    delay: int = option(1, "critic steps for each step of the actors and the targets", low=1)
    entropy_target: float = option(
        1.0, "entropy sought by a soft actor: minus so many nats a component; of choices, .3 of the most, times this"
    )
    restraint: float = option(
        1e-3, "weight of the squared outputs before the tanh, which keeps it from saturating", low=0.0
    )
    learning_rate: float = option(2e-3, "step size of Adam at the beginning", low=0.0)
    learning_rate_end: float = option(2e-4, "step size of Adam at the end", low=0.0)
    learning_rate_steps: int = option(
        2_000_000, "environment steps over which it falls; 0: it is the end's at once", low=0
    )
    actor_rate: float = option(0.5, "step size of the actors, as a multiple of the critics'", low=0.0)
    max_gradient: float = option(
        1.0, "longest gradient; longer ones are shortened to it (clipping by norm); 0: no limit", low=0.0
    )
    batch: int = option(64, "sequences a gradient step learns from", low=1)
    updates: int = option(1, "gradient steps after each rollout", low=1)
    capacity: int = option(200_000, "transitions the replay holds", low=1)
    warmup: int = option(5_000, "environment steps before learning begins", low=0)
    target_rate: float = option(0.02, "how far the targets move towards what they follow", low=0.0, high=1.0)

    def check(self, spec: Spec) -> None:
        if self.mixer.joins:
            needs_one_team(self.name or type(self).__name__, spec, cure="Use maddpg, whose agents keep their own aims.")

    def init(self, spec: Spec, *, key: Key) -> Learned:
        actor_key, mixer_key, *critic_keys = jax.random.split(key, 2 + self.critics)
        uses = uses_of(self.sharing, spec)
        sees_index = self.sees_index and len(set(uses)) < spec.num_agents
        outputs = (2 if self.soft and spec.continuous else 1) * spec.num_actions
        actor = team_of(
            uses,
            spec.obs_shape[0],
            self.hidden,
            self.memory,
            outputs,
            key=actor_key,
            cell=self.cell,
            sees_index=sees_index,
            last_scale=0.1,
        )
        sees_all = self.critic_sees == "all"
        told = inputs_of(spec, sees_all)
        teams = tuple(team_of(uses, told, self.hidden, 0, 1, key=key, sees_index=sees_index) for key in critic_keys)
        critics = Critics(teams, self.mixer.init(spec, key=mixer_key), self.mixer, sees_all)
        online = Nets(actor=actor, critics=critics)
        return Learned(
            online=online,
            target=jax.tree.map(jnp.copy, online),
            log_temperature=jnp.log(jnp.float32(0.1)),
            actor_optimiser=optimiser(self.max_gradient).init(actor),
            critic_optimiser=optimiser(self.max_gradient).init(critics),
            replay=Replay.empty(spec, length=self.length, memory=self.memory, envs=self.envs, capacity=self.capacity),
            steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
            spec=spec,
        )

    def shared_by(self, devices: int) -> bool:
        return self.envs % devices == 0 and self.batch % devices == 0

    def reads_state(self) -> bool:
        return self.critic_sees == "all" or self.mixer.reads_state

    def blank(self, learned: Learned, batch: int) -> Memory:
        return learned.online.actor.blank(batch)

    def act(
        self, learned: Learned, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Action, tuple[()]]:
        memory, outputs = learned.online.actor.step(memory, step.obs)
        if not learned.spec.continuous:
            log_chance = log_chances(outputs, step.available)
            best = jnp.argmax(log_chance, axis=-1).astype(jnp.int32)
            return memory, best if greedy else draw_choice(log_chance, key=key), ()
        if self.soft:
            head = Squashed(start=1.0)
            action = head.mode(outputs, step.available) if greedy else head.draw(outputs, step.available, key=key)
            return memory, action, ()
        action = jnp.tanh(outputs)
        if not greedy:
            spread = linear(learned.steps, self.noise, self.noise_end, self.noise_steps)
            action = jnp.clip(action + spread * jax.random.normal(key, action.shape), -1, 1)
        return memory, action, ()

    def update(self, learned: Learned, rollout: Rollout, *, key: Key) -> tuple[Learned, Metrics]:
        replay = learned.replay.add(rollout, learned.spec)
        steps = counted(learned.steps, rollout.steps)

        def improve(parts: Learned):
            keys = jax.random.split(key, self.updates)
            return jax.lax.scan(lambda parts, key: self._improve(parts, replay, rollout.axis, key=key), parts, keys)

        # The replay is only read in there: carried along it would be copied.
        parts = replace(learned, replay=(), steps=steps)
        parts, metrics = once(steps >= self.warmup, improve, parts)
        return replace(parts, replay=replay), jax.tree.map(jnp.mean, metrics)

    def _improve(self, learned: Learned, replay: Replay, axis: str | None, *, key: Key) -> tuple[Learned, Metrics]:
        """A step of the critics; then, when it is their turn, of the actors, the temperature and the targets."""
        sample_key, target_key, actor_key = jax.random.split(apart(key, axis), 3)
        rate = linear(learned.steps, self.learning_rate, self.learning_rate_end, self.learning_rate_steps)
        e = replay.sample(own_share(self.batch, axis), key=sample_key)
        targets = self._targets(learned, e, key=target_key)
        judged, acting = numbers_of((self.mixer.lives(e.alive), e.alive), learned.spec, axis)
        gradient, metrics = averaged(
            jax.grad(self._critic_loss, has_aux=True)(learned.online.critics, learned.spec, e, targets, judged), axis
        )
        way, critic_optimiser = optimiser(self.max_gradient).update(gradient, learned.critic_optimiser)
        critics = moved(learned.online.critics, way, rate)

        gradient, (gain, surplus) = averaged(
            jax.grad(self._actor_loss, has_aux=True)(
                learned.online.actor, critics, learned, e, judged, acting, key=actor_key
            ),
            axis,
        )
        way, actor_optimiser = optimiser(self.max_gradient).update(gradient, learned.actor_optimiser)
        updates = learned.updates + 1
        turn = updates % self.delay == 0
        taken = lambda new, old: jax.tree.map(lambda a, b: jnp.where(turn, a, b), new, old)  # noqa: E731
        online = Nets(
            actor=taken(moved(learned.online.actor, way, self.actor_rate * rate), learned.online.actor),
            critics=critics,
        )
        # The temperature rises while there is less entropy than is sought (Haarnoja et al. 2018, arXiv:1812.05905, eq. 18).
        log_temperature = jnp.clip(learned.log_temperature - jnp.where(turn, rate * surplus, 0.0), -10.0, 2.0)
        learned = replace(
            learned,
            online=online,
            target=soft_update(learned.target, online, jnp.where(turn, self.target_rate, 0.0)),
            log_temperature=log_temperature if self.soft else learned.log_temperature,
            actor_optimiser=taken(actor_optimiser, learned.actor_optimiser),
            critic_optimiser=critic_optimiser,
            updates=updates,
        )
        return learned, metrics | {"gain": gain, "temperature": jnp.exp(learned.log_temperature)}

    def _targets(self, learned: Learned, e: Experience, *, key: Key) -> Float[Array, "T K m"]:
        """The reward and the worth of the next step, where the less sanguine critic judges what the target actors do; or,
        of soft actors, what they do now (Haarnoja et al. 2018, arXiv:1801.01290, equation 3)."""
        target = learned.target
        actor = jax.lax.stop_gradient(learned.online.actor) if self.soft else target.actor
        outputs, next = e.outputs_after(actor, *actor.unroll(e.memory, e.now.obs, e.first)), e.next
        action, log_prob = self._chosen(learned.spec, outputs, next.available, key=key, exploring=False)
        values = target.critics.values(next.obs, next.state, action, action, e.next_alive)
        entropy = jnp.exp(learned.log_temperature) * self.mixer.share(jnp.where(e.next_alive, log_prob, 0.0))
        worth = jnp.min(jnp.stack(values), axis=0) - (entropy if self.soft else 0.0)
        lives = self.mixer.lives(e.next_alive)
        return self.reward_scale * self.mixer.share(e.reward) + self.discount * jnp.where(lives, worth, 0.0)

    def _critic_loss(
        self,
        critics: Critics,
        spec: Spec,
        e: Experience,
        targets: Float[Array, "T K m"],
        judged: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """The squared error, a mean over what is `judged`."""
        now = e.now
        taken = as_vectors(spec, e.action, now.available)
        values = critics.values(now.obs, now.state, taken, taken, e.alive)
        mean = partial(mean_of, counts=self.mixer.lives(e.alive), number=judged)
        aims = jax.lax.stop_gradient(targets)
        loss = jnp.stack([mean((value - aims) ** 2) for value in values]).sum()
        return loss, {"loss": loss, "value": mean(values[0])}

    def _actor_loss(
        self,
        actor: Team,
        critics: Critics,
        learned: Learned,
        e: Experience,
        judged: Float[Array, ""] | None = None,
        acting: Float[Array, ""] | None = None,
        *,
        key: Key,
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
        """Less what the critics say of the policies' actions. Also: that gain, and the entropy beyond what is sought."""
        spec, now = learned.spec, e.now
        _, outputs = actor.unroll(e.memory, now.obs, e.first)
        action, log_prob = self._chosen(spec, outputs, now.available, key=key, exploring=True)
        others = action if self.mixer.joins else as_vectors(spec, e.action, now.available)
        values = critics.values(now.obs, now.state, action, others, e.alive)
        mean = partial(mean_of, counts=e.alive, number=acting)
        gain = mean_of(jnp.min(jnp.stack(values), axis=0), self.mixer.lives(e.alive), judged)
        loss = -gain + self.restraint * mean((outputs**2).mean(-1))
        if self.soft:
            loss += jnp.exp(learned.log_temperature) * mean(log_prob)
        surplus = mean(-log_prob - self._sought(spec, now.available))
        return loss, (gain, jax.lax.stop_gradient(surplus))

    def _chosen(
        self,
        spec: Spec,
        outputs: Float[Array, "T K n k"],
        available: Bool[Array, "T K n a"],
        *,
        key: Key,
        exploring: bool,
    ) -> tuple[Float[Array, "T K n a"], Float[Array, "T K n"]]:
        """Actions as vectors that gradients pass through, and their log-probabilities where the policy is soft. Targets
        of deterministic policies (not `exploring`) are their best actions, smoothed."""
        if not spec.continuous:
            log_chance = log_chances(outputs, available)
            if exploring or self.soft:
                action = straight_through(log_chance, GUMBEL, key=key)
            else:
                action = jax.nn.one_hot(jnp.argmax(log_chance, axis=-1), spec.num_actions)
            return action, (action * log_chance).sum(-1)
        if self.soft:
            action, log_prob = Squashed(start=1.0).draw_with_log_prob(outputs, available, key=key)
            return jnp.where(available, action, 0.0), log_prob
        action = jnp.tanh(outputs)
        if self.smoothing and not exploring:
            noise = self.smoothing * jax.random.normal(key, action.shape)
            action = jnp.clip(action + jnp.clip(noise, -2 * self.smoothing, 2 * self.smoothing), -1, 1)
        return jnp.where(available, action, 0.0), jnp.zeros(action.shape[:-1])

    def _sought(self, spec: Spec, available: Bool[Array, "T K n a"]) -> Float[Array, "T K n"]:
        """The entropy sought of each agent: minus its vector's size, or a share of the most that its choices allow."""
        count = available.sum(-1)
        return self.entropy_target * (-count if spec.continuous else 0.3 * jnp.log(count))


def maddpg(**options) -> ActorCritic:
    """MADDPG: deterministic actors, each with a critic of everyone's actions (Lowe et al. 2017, arXiv:1706.02275)."""
    return changed(ActorCritic(name="maddpg"), **options)


def iddpg(**options) -> ActorCritic:
    """Independent DDPG: each agent's critic sees its own observation and action alone (Lillicrap et al. 2016, arXiv:1509.02971)."""
    return changed(ActorCritic(name="iddpg", critic_sees="own"), **options)


def matd3(**options) -> ActorCritic:
    """Multi-agent TD3: two critics, smoothed targets, patient actors (Ackermann et al. 2019, arXiv:1910.01465)."""
    return changed(ActorCritic(name="matd3", critics=2, smoothing=0.1, delay=2), **options)


def facmac(**options) -> ActorCritic:
    """FACMAC: critics of single agents, joined by a mixer, and one gradient for all actors (Peng et al. 2021, arXiv:2003.06709)."""
    return changed(ActorCritic(name="facmac", critic_sees="own", mixer=Monotonic()), **options)


def masac(**options) -> ActorCritic:
    """Multi-agent soft actor-critic: entropy is part of the aim (Haarnoja et al. 2018, arXiv:1801.01290)."""
    return changed(ActorCritic(name="masac", critics=2, soft=True), **options)
