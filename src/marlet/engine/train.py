"""Training as one compiled program: roll out, learn, repeat; the host is asked only between chunks."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from marlet.algorithms.base import Algorithm
from marlet.engine.devices import Placement, bytes_of, fresh, whole
from marlet.engine.evaluate import Scores, play_episodes
from marlet.engine.faults import Fault, told
from marlet.engine.rollout import Tally, World, opening, rollout
from marlet.engine.stateless import read_by
from marlet.envs.base import Env
from marlet.errors import NonFinite
from marlet.keys import new_key
from marlet.parts.replay import Replay
from marlet.parts.shards import apart
from marlet.types import Key, Metrics, Rollout, Spec

# What a seed's random numbers are for. Each purpose has its own stream, so that evaluating more often, or not at all,
# changes nothing in training.
INITIALISE, TRAIN, EVALUATE = 0, 1, 2


class Progress(eqx.Module):
    """Everything that a run of one seed is, between two iterations: saving it is saving the run."""

    seed: UInt32[Array, ""]
    iteration: Int[Array, ""]
    learned: Any
    world: World
    tally: Tally
    sums: dict[str, Float[Array, ""]]
    """Of each metric, since the last row."""
    counts: dict[str, Float[Array, ""]]
    """Iterations in which each metric was a number: before learning begins there is none."""
    fault: Fault


class Trainer(Protocol):
    """What a run asks of a training, be its environments compiled or on the host.

    A snapshot is one tree of numpy arrays that depends on no device. What was learned is its `learned`, every array of
    which leads with the seed axis: that is where policies are loaded from.
    """

    algorithm: Algorithm
    spec: Spec
    seeds: np.ndarray
    steps_per_iteration: int
    turns: int
    """Times that one call of `advance` starts the compiled program, for seeds that take turns; each costs the host."""

    def start(self) -> None: ...
    def advance(self, iterations: int) -> None: ...
    @property
    def iteration(self) -> int: ...
    def collect(self) -> list[dict[str, float]]: ...
    def evaluate(self, episodes: int) -> Scores: ...
    def table(self) -> np.ndarray | None: ...
    def snapshot(self) -> PyTree[np.ndarray]: ...
    @property
    def saved_shapes(self) -> PyTree[jax.ShapeDtypeStruct]: ...
    def restore(self, snapshot: PyTree[np.ndarray]) -> None: ...
    def close(self) -> None: ...


class Training:
    """A run of `seeds` independent learners on one compiled environment.

    Chunking changes no bit of the result: `advance(3)` three times is `advance(9)`.
    """

    def __init__(self, env: Env, algorithm: Algorithm, *, seed: int = 0, seeds: int = 1):
        algorithm.check(env.spec)
        self.name, env = type(env).__name__, read_by(algorithm, env)
        self.env, self.algorithm, self.spec = env, algorithm, env.spec
        self.steps_per_iteration = algorithm.envs * algorithm.length
        self.seeds = np.arange(seed, seed + seeds, dtype=np.uint32)
        begin, a_seed = partial(_begin, env, algorithm), jax.ShapeDtypeStruct((), jnp.uint32)
        bare = jax.eval_shape(partial(begin, []), a_seed)
        self._placement = place = Placement(seeds, bytes_of(bare), algorithm.shared_by)
        learn = jax.jit(partial(_learn, env, algorithm, place.axis))  # traced once, for the metrics' names and to train
        begin = partial(
            begin, _metric_names(place, learn, lambda seed: place.own_share(begin([], seed), _env_axes(bare)))
        )
        self.turns = place.turns
        self._shapes = jax.eval_shape(begin, a_seed)
        self._axes = _env_axes(self._shapes)
        self._begin = place.spread(lambda seed: place.own_share(begin(seed), self._axes), -1, self._axes)
        self._advance = place.spread(
            partial(_advance, learn, algorithm.reads_state()), self._axes, self._axes, donate=True
        )
        self._evaluate = {}
        self._table = jax.jit(lambda learned: algorithm.tables(jax.tree.map(lambda leaf: leaf[0], learned)))
        self.progress: list[Progress]
        """There from `start` or `restore` on: one for each turn of seeds, every array led by the seeds of the turn."""

    def start(self) -> None:
        """Initialise every seed. What trains is compiled meanwhile, and while the first evaluation is."""
        self._advance.compile_early(self._placement.turn_of(self._shapes), jax.ShapeDtypeStruct((), jnp.int32))
        self.progress = fresh(self._begin(self._placement.place(self.seeds, -1)))

    def advance(self, iterations: int) -> None:
        """Train for this many iterations and wait for them.

        Raises:
            EnvironmentFault: if the environment gave something that is not finite, or no legal action.
            NonFinite: if a weight or table entry is not finite any more.
        """
        self.progress = self._advance(self.progress, jnp.asarray(iterations, jnp.int32))
        faults = self._placement.taken([turn.fault for turn in self.progress])
        if fault := told(self.name, self.spec, faults, self.seeds, self.algorithm.length):
            raise fault
        if not all(all_finite(turn.learned) for turn in self.progress):
            raise not_finite(self.iteration * self.steps_per_iteration)

    @property
    def saved_shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes of what `snapshot` returns."""
        seeds = len(self.seeds)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype), self._shapes)

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(np.asarray(self.progress[0].iteration)[0])

    def collect(self) -> list[dict[str, float]]:
        """One row of metrics a seed since the last call; the sums start again."""
        collected = self._placement.taken([_collected(turn) for turn in self.progress])
        rows = [_row(jax.tree.map(lambda leaf, s=s: leaf[s], collected)) for s in range(len(self.seeds))]
        nothing = self._placement.place(jax.tree.map(np.zeros_like, collected), _collected(self._axes))
        self.progress = [eqx.tree_at(_collected, *pair) for pair in zip(self.progress, nothing, strict=True)]
        return rows

    def evaluate(self, episodes: int) -> Scores:
        """The scores of whole greedy episodes, as numpy arrays led by the seed axis. The same episodes every time."""
        # Devices that share a seed each play them all: what is recorded is then what `evaluate` plays again.
        if episodes not in self._evaluate:
            play = partial(_evaluate, self.env, self.algorithm, episodes)
            gives = Scores(-1, -1, -1)
            self._evaluate[episodes] = self._placement.spread(play, (-1, self._axes.learned), gives)
        return self._placement.taken(self._evaluate[episodes]([(turn.seed, turn.learned) for turn in self.progress]))

    def snapshot(self) -> PyTree[np.ndarray]:
        """All that must be saved: `progress` as numpy arrays, without anything that depends on the devices."""
        return self._placement.taken(self.progress)

    def restore(self, snapshot: PyTree[np.ndarray]) -> None:
        """Go on from a snapshot, on whatever devices are at hand."""
        self.progress = self._placement.place(snapshot, self._axes)

    def table(self) -> np.ndarray | None:
        """The first seed's action values by table entry ("tables entries a"), where they are few enough to be tables."""
        tables = self._table(self.progress[0].learned)
        return None if tables is None else np.asarray(tables)

    def close(self) -> None:
        """Nothing to let go of: there for the sake of environments on the host."""


def _collected(progress: Progress) -> tuple[Tally, dict[str, Array], dict[str, Array]]:
    """What a row of metrics is made of."""
    return progress.tally, progress.sums, progress.counts


def not_finite(steps: int) -> NonFinite:
    """What to tell when what was learned is no longer finite."""
    return NonFinite(
        f"After {steps} steps what was learned is no longer finite. Try a smaller learning_rate, or rewards of a "
        "smaller scale; what was saved before is sound."
    )


@jax.jit
def all_finite(learned: PyTree[Array]) -> Array:
    """Whether every number is finite, in all that was learned but the replay."""
    parts = jax.tree.leaves(learned, is_leaf=lambda part: isinstance(part, Replay))
    leaves = [leaf for leaf in parts if not isinstance(leaf, Replay) and jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves] or [True]).all()


def key_of(seed: UInt32[Array, ""], purpose: int) -> Key:
    """The stream of a seed's random numbers for one purpose."""
    return jax.random.fold_in(new_key(seed), purpose)


def _metric_names(place: Placement, learn: Callable, begin: Callable[[UInt32[Array, ""]], Progress]) -> list[str]:
    """What an update tells. Found by tracing one; nothing is computed."""

    def metrics(seed: UInt32[Array, ""]) -> Metrics:
        begun = begin(seed)
        return learn(begun.learned, begun.world, begun.tally, key_of(seed, TRAIN))[2]

    return list(
        jax.eval_shape(place.of_a_turn(metrics, -1, -1), place.turn_of(jax.ShapeDtypeStruct((), np.uint32)), ())
    )


def _begin(env: Env, algorithm: Algorithm, metrics: list[str], seed: UInt32[Array, ""]) -> Progress:
    learn_key, world_key = jax.random.split(key_of(seed, INITIALISE))
    learned = algorithm.init(env.spec, key=learn_key)
    envs = algorithm.envs
    world = opening(env, algorithm, learned, envs, key=world_key)
    zeros = {name: jnp.zeros((), jnp.float32) for name in metrics}
    return Progress(
        seed=seed,
        iteration=jnp.zeros((), jnp.int32),
        learned=learned,
        world=world,
        tally=Tally.empty(envs, env.spec.num_agents),
        sums=zeros,
        counts=dict(zeros),
        fault=Fault.none(envs),
    )


def _env_axes(progress: Progress) -> PyTree[int]:
    """In place of each array of a run's progress, which of its axes is of environments; -1 where none is."""
    along = lambda axis, tree: jax.tree.map(lambda _: axis, tree)  # noqa: E731
    is_replay = lambda part: isinstance(part, Replay)  # noqa: E731
    learned = jax.tree.map(lambda part: part.env_axes if is_replay(part) else -1, progress.learned, is_leaf=is_replay)
    world = eqx.tree_at(
        lambda world: world.state,
        along(0, progress.world),
        jax.tree.map(lambda leaf: leaf.ndim - 1, progress.world.state),
    )
    return eqx.tree_at(
        lambda p: (p.learned, p.world, p.tally, p.fault),
        whole(progress),
        (learned, world, along(0, progress.tally), along(0, progress.fault)),
    )


def _learn(env, algorithm, axis, learned, world, tally, key) -> tuple[Any, tuple[World, Tally], Metrics, Rollout]:
    """One iteration: T steps of B environments, then what they teach."""
    play_key, learn_key = jax.random.split(key)
    world, tally, played = rollout(
        env, algorithm, learned, world, tally, algorithm.length, key=apart(play_key, axis), axis=axis
    )
    learned, metrics = algorithm.update(learned, played, key=learn_key)
    return learned, (world, tally), metrics, played


def _advance(learn: Callable, reads_state: bool, progress: Progress, iterations: Int[Array, ""]) -> Progress:
    train_key = key_of(progress.seed, TRAIN)

    def body(_, p: Progress) -> Progress:
        key = jax.random.fold_in(train_key, p.iteration)
        learned, (world, tally), metrics, played = learn(p.learned, p.world, p.tally, key)
        number = {name: ~jnp.isnan(value) for name, value in metrics.items()}
        return Progress(
            seed=p.seed,
            iteration=p.iteration + 1,
            learned=learned,
            world=world,
            tally=tally,
            sums={name: p.sums[name] + jnp.where(number[name], metrics[name], 0.0) for name in metrics},
            counts={name: p.counts[name] + number[name] for name in metrics},
            fault=p.fault.after(p.iteration, played, reads_state),
        )

    return jax.lax.fori_loop(0, iterations, body, progress)


def _evaluate(env: Env, algorithm: Algorithm, episodes: int, seed_and_learned: tuple[Array, Any]) -> Scores:
    seed, learned = seed_and_learned
    return play_episodes(env, algorithm, learned, episodes, key=key_of(seed, EVALUATE))


def judged_alone(env: Env, algorithm: Algorithm, learned: Any, episodes: int, *, seed: int) -> Scores:
    """The episodes by which a run judges the learner of this seed, by the program of a run of one seed: to the last bit."""
    env, place = read_by(algorithm, env), Placement(1, bytes_of(learned), algorithm.shared_by)
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (np.uint32(seed), learned))
    axes = whole(one)
    play = place.spread(partial(_evaluate, env, algorithm, episodes), axes, Scores(-1, -1, -1))
    return jax.tree.map(lambda leaf: leaf[0], place.taken(play(place.place(one, axes))))


def _row(collected: tuple[Tally, dict, dict]) -> dict[str, float]:
    """Means from sums. What has no entries is not a number."""
    tally, sums, counts = collected
    episodes = float(tally.episodes.sum())
    mean = lambda total: float(total) / episodes if episodes else float("nan")  # noqa: E731
    learned = {name: float(sums[name] / counts[name]) if counts[name] else float("nan") for name in sums}
    return {
        "episodes": episodes,
        "train_return": mean(tally.score.mean(-1).sum()),
        "train_length": mean(tally.length.sum()),
        **learned,
    }
