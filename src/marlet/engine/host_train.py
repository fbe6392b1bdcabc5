"""Training on environments that live in Python: the same learning rules, with the world stepped on the host."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from marlet.algorithms.base import Algorithm
from marlet.bridges.resolve import Factory
from marlet.engine.evaluate import Scores
from marlet.engine.host import HostEnv, rollout
from marlet.engine.train import EVALUATE, INITIALISE, TRAIN, all_finite, key_of, not_finite
from marlet.types import Memory, Rollout, Step, Transition

EVALUATION_COPIES = 16
"""Copies of the environment that evaluations play side by side."""
LONGEST = 1000
"""Steps after which an evaluation's episode is given up where the environment tells no horizon."""


class Sums(eqx.Module):
    """What a row of metrics is made of, and the episodes under way."""

    episodes: Float[np.ndarray, ""]
    score: Float[np.ndarray, ""]
    length: Float[np.ndarray, ""]
    metrics: dict[str, Float[np.ndarray, ""]]
    counts: dict[str, Float[np.ndarray, ""]]
    running: Float[np.ndarray, " B"]
    """Reward so far of each copy's episode, averaged over agents."""
    clock: Int[np.ndarray, " B"]


class Progress(eqx.Module):
    """One seed's run, but for the environments, which tell their own snapshot."""

    iteration: Int[np.ndarray, ""]
    learned: Any
    memory: Memory
    first: Bool[np.ndarray, " B"]
    sums: Sums


class HostTraining:
    """A run of `seeds` independent learners, each on host environments of its own, one seed after another.

    A snapshot holds each episode's seed and actions so far; restoring plays them again. For environments that are
    deterministic given their seed, a resumed run is therefore the uninterrupted one, bit for bit.
    """

    def __init__(
        self, factory: Factory, algorithm: Algorithm, *, seed: int = 0, seeds: int = 1, workers: int | None = None
    ):
        self.factory, self.algorithm, self.workers = factory, algorithm, workers
        self.seeds = np.arange(seed, seed + seeds, dtype=np.uint32)
        self.steps_per_iteration = algorithm.envs * algorithm.length
        self._envs = [HostEnv(factory, algorithm.envs, workers=workers)]
        self.spec = self._envs[0].spec
        try:
            algorithm.check(self.spec)
        except BaseException:
            self.close()
            raise
        self._envs += [HostEnv(factory, algorithm.envs, workers=workers) for _ in self.seeds[1:]]
        self._judge: HostEnv | None = None
        self._act = jax.jit(algorithm.act)
        self._greedy = jax.jit(lambda *args, key: algorithm.act(*args, key=key, greedy=True))
        self._update = jax.jit(algorithm.update, donate_argnums=(0,))
        self._init = jax.jit(lambda key: algorithm.init(self.spec, key=key))
        self._metrics = self._metric_names()
        self._progress: list[Progress] = []
        self._now: list[Step] = []

    def start(self) -> None:
        """Initialise every seed and open its first episodes."""
        for env, seed in zip(self._envs, self.seeds, strict=True):
            self._now.append(env.reset(int(seed)))
            learned = self._init(jax.random.split(key_of(jnp.asarray(seed), INITIALISE))[0])
            batch = self.algorithm.envs
            self._progress.append(
                Progress(
                    iteration=np.zeros((), np.int32),
                    learned=jax.tree.map(lambda leaf: leaf.copy(), learned),
                    memory=self.algorithm.blank(learned, batch),
                    first=np.ones(batch, bool),
                    sums=self._empty(np.zeros(batch, np.float32), np.zeros(batch, np.int32)),
                )
            )

    def advance(self, iterations: int) -> None:
        """Train for this many iterations.

        Raises:
            EnvironmentFault: if an environment raises, hangs, dies or breaks its contract.
        """
        for _ in range(iterations):
            for s in range(len(self.seeds)):
                self._learn(s)

    def _learn(self, s: int) -> None:
        """One iteration of one seed: T steps of B copies, then what they teach."""
        p, algorithm = self._progress[s], self.algorithm
        key = jax.random.fold_in(key_of(jnp.asarray(self.seeds[s]), TRAIN), p.iteration)
        play_key, learn_key = jax.random.split(key)
        blank = algorithm.blank(p.learned, algorithm.envs)
        self._now[s], first, memory, played = rollout(
            lambda memory, step, key: self._act(p.learned, memory, step, key=key),
            self._envs[s],
            self._now[s],
            p.first,
            p.memory,
            blank,
            algorithm.length,
            key=play_key,
        )
        learned, metrics = self._update(p.learned, played, key=learn_key)
        self._progress[s] = Progress(
            iteration=p.iteration + np.int32(1),
            learned=learned,
            memory=memory,
            first=np.asarray(first),
            sums=_counted(p.sums, played, jax.device_get(metrics)),
        )

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self._progress[0].iteration)

    def collect(self) -> list[dict[str, float]]:
        """One row of metrics a seed since the last call; the sums start again.

        Raises:
            NonFinite: if a weight or table entry is not finite.
        """
        rows = []
        for s, p in enumerate(self._progress):
            if not all_finite(p.learned):
                raise not_finite(self.iteration * self.steps_per_iteration)
            rows.append(_row(p.sums))
            self._progress[s] = eqx.tree_at(lambda p: p.sums, p, self._empty(p.sums.running, p.sums.clock))
        return rows

    def evaluate(self, episodes: int) -> Scores:
        """The scores of whole greedy episodes, led by the seed axis. Every copy plays equally many of them."""
        copies = min(episodes, EVALUATION_COPIES)
        if self._judge is None:
            self._judge = HostEnv(self.factory, copies, workers=self.workers)
        each = -(-episodes // copies)
        played = [self._play(s, each) for s in range(len(self.seeds))]
        return jax.tree.map(lambda *leaves: np.stack([leaf[:episodes] for leaf in leaves]), *played)

    def _play(self, s: int, each: int) -> Scores:
        env, algorithm, learned = self._judge, self.algorithm, self._progress[s].learned
        key = key_of(jnp.asarray(self.seeds[s]), EVALUATE)
        now, blank = env.reset(int(self.seeds[s]) + 2**20), algorithm.blank(learned, env.copies)
        memory, first = blank, np.ones(env.copies, bool)
        ended: list[list[tuple]] = [[] for _ in range(env.copies)]
        score, clock = np.zeros((env.copies, self.spec.num_agents)), np.zeros(env.copies, int)
        longest = (self.spec.horizon or LONGEST) * each
        act = lambda memory, step, key: self._greedy(learned, memory, step, key=key)  # noqa: E731
        for t in range(longest):
            now, first, memory, one = rollout(act, env, now, first, memory, blank, 1, key=jax.random.fold_in(key, t))
            next = jax.tree.map(lambda leaf: leaf[0], one.transitions.next)
            score, clock = score + next.reward, clock + 1
            for b in np.flatnonzero(next.over | (t == longest - 1)):
                ended[b].append((score[b].copy(), clock[b], bool(next.over[b] & ~next.truncated[b])))
                score[b], clock[b] = 0, 0
            if min(map(len, ended)) >= each:
                break
        rows = [episode for episodes in ended for episode in episodes[:each]]
        scores, lengths, solved = zip(*rows, strict=True)
        return Scores(score=np.stack(scores), length=np.array(lengths), solved=np.array(solved))

    def snapshot(self) -> PyTree[np.ndarray]:
        """All that must be saved: each seed's learner, and what its environments need to come back."""
        return {
            "progress": jax.device_get(self._progress),
            "worlds": [env.snapshot() for env in self._envs],
        }

    @property
    def saved_shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes of what `snapshot` returns; -1 where a length depends on how far episodes have come."""
        if not self._progress:
            self.start()
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.snapshot())
        for world in shapes["worlds"]:
            shape, dtype = world["action"].shape, world["action"].dtype
            world["action"] = jax.ShapeDtypeStruct((-1, *shape[1:]), dtype)
        return shapes

    def restore(self, snapshot: PyTree[np.ndarray]) -> None:
        """Go on from a snapshot."""
        progress = snapshot["progress"]
        self._progress = [
            eqx.tree_at(lambda p: (p.learned, p.memory), p, jax.tree.map(jnp.asarray, (p.learned, p.memory)))
            for p in progress
        ]
        self._now = [env.restore(world) for env, world in zip(self._envs, snapshot["worlds"], strict=True)]

    def table(self) -> np.ndarray | None:
        """The first seed's action values by table entry ("tables entries a"), where they are kept in tables."""
        tables = self.algorithm.tables(self._progress[0].learned)
        return None if tables is None else np.asarray(tables)

    def close(self) -> None:
        """End the workers."""
        for env in [*self._envs, *([self._judge] if self._judge else [])]:
            env.close()

    def _metric_names(self) -> list[str]:
        """Found by tracing an update on a rollout of the right shapes; nothing is computed."""
        spec, algorithm = self.spec, self.algorithm
        t, b, n, a = algorithm.length, algorithm.envs, spec.num_agents, spec.num_actions

        def update(key: Array) -> dict[str, Array]:
            learned = algorithm.init(spec, key=key)
            memory = algorithm.blank(learned, b)
            step = Step(
                obs=jnp.zeros((b, n, *spec.obs_shape)),
                state=jnp.zeros((b, spec.state_size)),
                available=jnp.ones((b, n, a), bool),
                reward=jnp.zeros((b, n)),
                alive=jnp.ones((b, n), bool),
                truncated=jnp.zeros(b, bool),
                cost=jnp.zeros((b, n)),
            )
            _, action, extra = algorithm.act(learned, memory, step, key=key)
            one = Transition(now=step, action=action, next=step, first=jnp.zeros(b, bool), extra=extra)
            many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (t, *leaf.shape)), one)
            return algorithm.update(learned, Rollout(transitions=many, memory=memory), key=key)[1]

        return list(jax.eval_shape(update, jax.random.key(0)))

    def _empty(self, running: np.ndarray, clock: np.ndarray) -> Sums:
        zero = np.zeros((), np.float32)
        zeros = {name: zero for name in self._metrics}
        return Sums(zero, zero, zero, zeros, dict(zeros), running, clock)


def _counted(sums: Sums, played: Rollout, metrics: dict[str, np.ndarray]) -> Sums:
    """The sums with one rollout's episodes and one update's metrics."""
    next = played.transitions.next
    running, clock = sums.running.copy(), sums.clock.copy()
    episodes, score, length = sums.episodes, sums.score, sums.length
    for t in range(next.truncated.shape[0]):
        over = np.asarray(next.truncated[t] | ~next.alive[t].any(-1))
        running, clock = running + next.reward[t].mean(-1), clock + 1
        episodes, score, length = episodes + over.sum(), score + running[over].sum(), length + clock[over].sum()
        running, clock = np.where(over, 0, running), np.where(over, 0, clock)
    number = {name: not np.isnan(value) for name, value in metrics.items()}
    return Sums(
        episodes=np.float32(episodes),
        score=np.float32(score),
        length=np.float32(length),
        metrics={
            name: np.float32(sums.metrics[name] + (value if number[name] else 0)) for name, value in metrics.items()
        },
        counts={name: np.float32(sums.counts[name] + number[name]) for name in metrics},
        running=running.astype(np.float32),
        clock=clock.astype(np.int32),
    )


def _row(sums: Sums) -> dict[str, float]:
    """Means from sums. What has no entries is not a number."""
    mean = lambda total: float(total / sums.episodes) if sums.episodes else float("nan")  # noqa: E731
    learned = {
        name: float(total / sums.counts[name]) if sums.counts[name] else float("nan")
        for name, total in sums.metrics.items()
    }
    return {
        "episodes": float(sums.episodes),
        "train_return": mean(sums.score),
        "train_length": mean(sums.length),
        **learned,
    }
