"""Training on environments that live in Python: the same learning rules, with the world stepped on the host."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from marlet.algorithms.base import Algorithm
from marlet.bridges.resolve import Factory
from marlet.engine.devices import compiler_options
from marlet.engine.evaluate import Scores
from marlet.engine.host import STEP_TIMEOUT, HostEnv, Snapshot
from marlet.engine.host_play import Act, play_episodes, rollout
from marlet.engine.outline import metric_names
from marlet.engine.train import EVALUATE, INITIALISE, TRAIN, all_finite, key_of, not_finite
from marlet.types import Key, Memory, Rollout, Step

EVALUATION_COPIES = 16
"""Copies of the environment that evaluations play side by side."""
EVALUATION_SEED = 2**20
"""Added to a learner's seed for its evaluations' episodes, so that they are others than those of training."""


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
    """One seed's run, but for its environments. In a snapshot: those of all seeds, stacked, with what brings their
    environments back."""

    iteration: Int[np.ndarray, ""]
    learned: Any
    memory: Memory
    first: Bool[np.ndarray, " B"]
    sums: Sums
    worlds: list[Snapshot] = eqx.field(default_factory=list)


class HostTraining:
    """A run of `seeds` independent learners, each on host environments of its own, one seed after another.

    A snapshot holds each episode's seed and actions so far; restoring plays them again. For environments that are
    deterministic given their seed, a resumed run is therefore the uninterrupted one, bit for bit.
    """

    def __init__(
        self,
        factory: Factory,
        algorithm: Algorithm,
        *,
        seed: int = 0,
        seeds: int = 1,
        workers: int | None = None,
        timeout: float = STEP_TIMEOUT,
    ):
        self.factory, self.algorithm, self.workers, self.timeout = factory, algorithm, workers, timeout
        self.seeds = np.arange(seed, seed + seeds, dtype=np.uint32)
        self.steps_per_iteration, self.turns = algorithm.envs * algorithm.length, 1
        with HostEnv(factory, 1, workers=0) as probe:
            algorithm.check(probe.spec)
            self._metrics = metric_names(algorithm, probe.spec)
        self._envs: list[HostEnv] = []
        self._judge: HostEnv | None = None
        try:
            for _ in self.seeds:
                self._envs.append(self._build(algorithm.envs))
        except BaseException:
            self.close()
            raise
        self.spec = self._envs[0].spec
        self._act = jax.jit(algorithm.act)
        self._greedy = greedy(algorithm)
        self._update = jax.jit(algorithm.update, donate_argnums=(0,), compiler_options=compiler_options())
        self._init = jax.jit(lambda key: algorithm.init(self.spec, key=key))
        self._keys = jax.jit(_keys)
        self._progress: list[Progress] = []
        self._now: list[Step] = []

    def _build(self, copies: int) -> HostEnv:
        """Environments that are asked for their state only if it is ever read."""
        own_state = self.algorithm.reads_state()
        return HostEnv(self.factory, copies, workers=self.workers, timeout=self.timeout, own_state=own_state)

    def start(self) -> None:
        """Initialise every seed and open its first episodes."""
        self._now = [env.reset(int(seed)) for env, seed in zip(self._envs, self.seeds, strict=True)]
        keys = [jax.random.split(key_of(jnp.asarray(seed), INITIALISE))[0] for seed in self.seeds]
        # In buffers of their own: equal constants may share one, which cannot be donated twice.
        self._progress = [jax.tree.map(lambda leaf: leaf.copy(), self._begin(key)) for key in keys]

    def _begin(self, key: Key) -> Progress:
        learned, batch = self._init(key), self.algorithm.envs
        return Progress(
            iteration=np.zeros((), np.int32),
            learned=learned,
            memory=self.algorithm.blank(learned, batch),
            first=np.ones(batch, bool),
            sums=self._empty(np.zeros(batch, np.float32), np.zeros(batch, np.int32)),
        )

    def advance(self, iterations: int) -> None:
        """Train for this many iterations.

        Raises:
            EnvironmentFault: if an environment raises, hangs, dies or breaks its contract.
            NonFinite: if a weight or table entry is not finite any more.
        """
        for _ in range(iterations):
            for s in range(len(self.seeds)):
                self._learn(s)
        for p in self._progress:
            if not all_finite(p.learned):
                raise not_finite(self.iteration * self.steps_per_iteration)

    def _learn(self, s: int) -> None:
        """One iteration of one seed: T steps of B copies, then what they teach."""
        p, algorithm = self._progress[s], self.algorithm
        play_key, learn_key = self._keys(self.seeds[s], p.iteration)
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
        """One row of metrics a seed since the last call; the sums start again."""
        rows = []
        for s, p in enumerate(self._progress):
            rows.append(_row(p.sums))
            self._progress[s] = eqx.tree_at(lambda p: p.sums, p, self._empty(p.sums.running, p.sums.clock))
        return rows

    def evaluate(self, episodes: int) -> Scores:
        """The scores of whole greedy episodes, led by the seed axis. The same episodes every time."""
        if self._judge is None:
            self._judge = self._build(min(episodes, EVALUATION_COPIES))
        played = [
            judged(self._greedy, self.algorithm, p.learned, self._judge, episodes, seed=int(seed))
            for p, seed in zip(self._progress, self.seeds, strict=True)
        ]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *played)

    def snapshot(self) -> PyTree[np.ndarray]:
        """All that must be saved. As in compiled training `learned` leads every array with the seed axis."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(self._progress))
        return replace(stacked, worlds=[env.snapshot() for env in self._envs])

    @property
    def saved_shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes of what `snapshot` returns; -1 where a length depends on how far episodes have come."""
        seeds = len(self.seeds)
        one = jax.eval_shape(self._begin, jax.random.key(0))
        stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype), one)
        return replace(stacked, worlds=[env.saved_shapes for env in self._envs])

    def restore(self, snapshot: PyTree[np.ndarray]) -> None:
        """Go on from a snapshot."""
        stacked = replace(snapshot, worlds=[])
        each = [jax.tree.map(lambda leaf, s=s: leaf[s], stacked) for s in range(len(self.seeds))]
        placed = [jax.tree.map(jnp.array, (p.learned, p.memory)) for p in each]
        self._progress = [
            replace(p, learned=learned, memory=memory) for p, (learned, memory) in zip(each, placed, strict=True)
        ]
        self._now = [env.restore(world) for env, world in zip(self._envs, snapshot.worlds, strict=True)]

    def table(self) -> np.ndarray | None:
        """The first seed's action values by table entry ("tables entries a"), where they are kept in tables."""
        tables = self.algorithm.tables(self._progress[0].learned)
        return None if tables is None else np.asarray(tables)

    def close(self) -> None:
        """End the workers."""
        for env in [*self._envs, *([self._judge] if self._judge else [])]:
            env.close()

    def _empty(self, running: np.ndarray, clock: np.ndarray) -> Sums:
        zero = np.zeros((), np.float32)
        zeros = {name: zero for name in self._metrics}
        return Sums(zero, zero, zero, zeros, dict(zeros), running, clock)


def _keys(seed: Int[Array, ""], iteration: Int[Array, ""]) -> tuple[Key, Key]:
    """One iteration's keys, for playing and for learning."""
    play_key, learn_key = jax.random.split(jax.random.fold_in(key_of(seed, TRAIN), iteration))
    return play_key, learn_key


def greedy(algorithm: Algorithm) -> Callable:
    """The greedy choice, compiled."""
    return jax.jit(lambda learned, memory, step, key: algorithm.act(learned, memory, step, key=key, greedy=True))


def judged(choose: Callable, algorithm: Algorithm, learned: Any, env: HostEnv, episodes: int, *, seed: int) -> Scores:
    """The episodes by which a run judges the learner of this seed; `choose` comes from `greedy`."""
    act: Act = partial(choose, learned)
    key = key_of(jnp.asarray(seed, jnp.uint32), EVALUATE)
    blank = algorithm.blank(learned, env.copies)
    return play_episodes(act, env, blank, episodes, seed=seed + EVALUATION_SEED, key=key)


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
