"""The parts of training as programs of their own, each in the midst of a training at JaxMARL's settings.

Each part is repeated inside one compiled program on one device. What it reads changes a little from one time to the
next (weights plus next to nothing of the last result), so that nothing is computed once and for all. Parts need not
add up to the whole: what XLA makes of one alone is not what it makes of it among others. This is the one place of
the benchmark that looks inside the algorithms.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from measure import Program
from settings import algorithm_of, read

Timed = tuple[Program, float]
"""A program of as many times the part as it is told, and how many times the part is in one iteration."""


def is_q_learning(name: str) -> bool:
    """Whether a setting's algorithm learns values from a replay."""
    return read(name)["algorithm"] in ("iql", "vdn", "qmix")


class Scene:
    """A training in the midst of it: what is learned, the world, a rollout, a replay full of copies of it."""

    def __init__(self, name: str):
        import equinox as eqx
        import jax
        import jax.numpy as jnp

        from marlet.catalogue import make_env
        from marlet.engine.rollout import Tally, opening, rollout

        self.env: Any = make_env(read(name)["env"])
        self.algorithm = algorithm_of(name)
        env, algorithm, key = self.env, self.algorithm, jax.random.key(0)

        @jax.jit
        def begun():
            learned = algorithm.init(env.spec, key=key)
            world = opening(env, algorithm, learned, algorithm.envs, key=key)
            return learned, world

        self.learned, self.world = begun()

        @jax.jit
        def play(learned, world, key):
            tally = Tally.empty(algorithm.envs, env.spec.num_agents)
            world, _, played = rollout(env, algorithm, learned, world, tally, algorithm.length, key=key)
            return world, played

        self.play = play
        self.played = play(self.learned, self.world, key)[1]
        if is_q_learning(name):
            held = lambda learned: learned.replay  # noqa: E731
            add = jax.jit(lambda replay, played: replay.add(played, env.spec), donate_argnums=0)
            replay = jax.tree.map(jnp.copy, held(self.learned))
            for _ in range(replay.slots):
                replay = add(replay, self.played)
            warm = jnp.asarray(algorithm.warmup, jnp.int32)
            self.learned = eqx.tree_at(lambda learned: (held(learned), learned.steps), self.learned, (replay, warm))


def repeated(carry: Any, body: Callable[[Any, Any], Any]) -> Program:
    """A program of `carry = body(carry, key)`, as often as it is told.

    What is carried stays from one run to the next, in the same buffers: copying a replay would be most of a short run.
    """
    import jax
    import jax.numpy as jnp

    from marlet.engine.devices import compiler_options

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
    def go(carry, key, steps):
        return jax.lax.fori_loop(0, steps, lambda i, carry: body(carry, jax.random.fold_in(key, i)), carry)

    held = [jax.tree.map(jnp.copy, carry)]

    def program(steps: int, key: int) -> Any:
        held[0] = go(held[0], jax.random.key(key), steps)
        return held[0]

    return program


def nudged(tree: Any, result: Any) -> Any:
    """The tree plus next to nothing of a result, so that it is not there before the result is."""
    import jax
    import jax.numpy as jnp

    little = 1e-30 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(result))
    return jax.tree.map(lambda leaf: leaf + little, tree)


# What both families do


def iteration(scene: Scene) -> Timed:
    """A rollout and what it teaches."""

    def body(carry, key):
        learned, world = carry
        world, played = scene.play(learned, world, key)
        return scene.algorithm.update(learned, played, key=key)[0], world

    return repeated((scene.learned, scene.world), body), 1


def playing(scene: Scene) -> Timed:
    """A rollout: acting, stepping, opening new episodes, keeping what happened."""

    def body(carry, key):
        world, _ = carry
        return scene.play(scene.learned, world, key)

    return repeated((scene.world, scene.played), body), 1


def stepping(scene: Scene) -> Timed:
    """As many steps with random actions, of which nothing is kept."""
    from stepping import random_play

    go, world, length = random_play(scene.env, scene.algorithm.envs)
    return lambda rounds, key: go(world, key, rounds), scene.algorithm.length / length


def update(scene: Scene) -> Timed:
    """What one rollout teaches, the same one each time."""

    def body(learned, key):
        return scene.algorithm.update(learned, scene.played, key=key)[0]

    return repeated(scene.learned, body), 1


# Q-learning


def replay(scene: Scene) -> Timed:
    """A rollout written to the replay, and a batch sampled."""
    import jax

    def body(carry, key):
        replay = carry[0].add(scene.played, scene.env.spec)
        return replay, replay.sample(scene.algorithm.batch, key=key)

    held = scene.learned.replay
    return repeated((held, held.sample(scene.algorithm.batch, key=jax.random.key(0))), body), scene.algorithm.updates


def q_forward(scene: Scene) -> Timed:
    """The loss of a batch."""

    def body(carry, key):
        return *nudged(carry[:2], scene.algorithm._loss(*carry)[0]), carry[2]

    return repeated(_q_batch(scene), body), scene.algorithm.updates


def q_gradient(scene: Scene) -> Timed:
    """The loss of a batch and its gradient."""
    import jax

    gradient = jax.grad(scene.algorithm._loss, has_aux=True)

    def body(carry, key):
        return *nudged(carry[:2], gradient(*carry)[0]), carry[2]

    return repeated(_q_batch(scene), body), scene.algorithm.updates


def _q_batch(scene: Scene) -> Any:
    """Both networks, and sequences to learn from."""
    import jax

    learned = scene.learned
    return learned.online, learned.target, learned.replay.sample(scene.algorithm.batch, key=jax.random.key(0))


def q_optimiser(scene: Scene) -> Timed:
    """A step of the weights along a gradient, and a move of the target network."""
    import jax

    from marlet.algorithms.values import EPS
    from marlet.parts.descent import optimiser
    from marlet.parts.nets import soft_update

    rule = optimiser(scene.algorithm.max_gradient, EPS)
    gradient = jax.tree.map(lambda weight: 1e-3 * weight, scene.learned.online)

    def body(carry, key):
        online, target, state = carry
        direction, state = rule.update(gradient, state)
        online = jax.tree.map(lambda weight, step: weight - 1e-3 * step, online, direction)
        return online, soft_update(target, online, 1e-3), state

    start = (scene.learned.online, scene.learned.target, scene.learned.optimiser)
    return repeated(start, body), scene.algorithm.updates


# PPO


def lessons(scene: Scene) -> Timed:
    """Advantages and targets of a rollout."""
    import equinox as eqx

    def body(learned, key):
        learned, taught, _ = scene.algorithm._lessons(learned, scene.played)
        result = (taught.advantage, taught.value, taught.target)
        teams = lambda learned: (learned.actor, learned.critic)  # noqa: E731
        return eqx.tree_at(teams, learned, nudged(teams(learned), result))

    return repeated(scene.learned, body), 1


def p_forward(scene: Scene) -> Timed:
    """Both losses of all minibatches."""
    loss = _p_loss(scene)

    def body(carry, key):
        return nudged(carry[0], loss(*carry, key)), carry[1]

    return repeated(_p_batch(scene), body), _gradient_steps(scene)


def p_gradient(scene: Scene) -> Timed:
    """Both losses of all minibatches and their gradients."""
    import jax

    gradient = jax.grad(_p_loss(scene))

    def body(carry, key):
        return nudged(carry[0], gradient(*carry, key)), carry[1]

    return repeated(_p_batch(scene), body), _gradient_steps(scene)


def _p_batch(scene: Scene) -> Any:
    """Both networks, and one minibatch."""
    import jax

    learned, algorithm = scene.learned, scene.algorithm
    _, taught, _ = algorithm._lessons(learned, scene.played)
    rows = jax.tree.leaves(taught)[0].shape[1] // algorithm.minibatches
    return (learned.actor, learned.critic), jax.tree.map(lambda leaf: leaf[:, :rows], taught)


def _p_loss(scene: Scene) -> Callable:
    """Both losses of one minibatch, as a function of both networks and of it."""
    return lambda teams, taught, key: scene.algorithm._both_losses(scene.learned, teams, taught, key)[0]


def p_optimiser(scene: Scene) -> Timed:
    """The steps of both networks along their gradients."""
    import jax

    from marlet.parts.descent import step

    learned, longest = scene.learned, scene.algorithm.max_gradient
    start = ((learned.actor, learned.actor_optimiser), (learned.critic, learned.critic_optimiser))
    gradients = [jax.tree.map(lambda weight: 1e-3 * weight, team) for team, _ in start]

    def body(carry, key):
        pairs = zip(gradients, carry, strict=True)
        return tuple(step(gradient, team, state, longest, 1e-3) for gradient, (team, state) in pairs)

    return repeated(start, body), _gradient_steps(scene)


def _gradient_steps(scene: Scene) -> int:
    return scene.algorithm.epochs * scene.algorithm.minibatches


Part = Callable[[Scene], Timed]
PLAYING: dict[str, Part] = {
    "one iteration": iteration,
    "rollout": playing,
    "... stepping with random actions": stepping,
}

Q_LEARNING: dict[str, Part] = {
    "update": update,
    "... replay, written and sampled": replay,
    "... loss, forwards": q_forward,
    "... loss, forwards and backwards": q_gradient,
    "... optimiser and target network": q_optimiser,
}
PPO: dict[str, Part] = {
    "update": update,
    "... advantages and targets": lessons,
    "... losses, forwards": p_forward,
    "... losses, forwards and backwards": p_gradient,
    "... optimisers": p_optimiser,
}
