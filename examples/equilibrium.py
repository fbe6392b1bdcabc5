"""Self-play in zero-sum games: how far from equilibrium players are before they learn, at the end, and on average.

    python examples/equilibrium.py

Prints the NashConv of three pairs of policies: what both players together would win by their best replies (0 exactly at an
equilibrium). The first pair is as it was before learning, the latest as it is at the end. The average is of the selves that the
league has kept: one after every `EVERY` updates from first to last, all with one weight, each player's chances averaged by
themselves. Each player learns against such past selves of the other, drawn evenly. The bonus for entropy, which falls over the
run, keeps players from running off to pure strategies, where nothing more is learned; it draws them to even play, which is an
equilibrium of the even games only.

A second table tells the same of two `wolf_phc`, which learn against each other as they are, from tables of chances. Both begin
with their first action in eight of ten rounds, far off any equilibrium here. The average is of all their policies so far.
"""

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from studies import options, report, told

import marlet
from marlet.algorithms.sides import Sides, Together, with_replay
from marlet.engine.devices import one_device_per_core
from marlet.engine.train import Training
from marlet.envs.matrix import Matrix, opposed
from marlet.equations.distributions import log_chances
from marlet.equations.games import nash_conv, zero_sum
from marlet.parts.members import step_of

GAMES = {
    "matching pennies": ((1, -1), (-1, 1)),
    "rock, paper, scissors": ((0, -1, 1), (1, 0, -1), (-1, 1, 0)),
    "uneven pennies": ((4, -1), (-1, 1)),  # two heads pay 4
    "uneven rock, paper, scissors": ((0, -1, 4), (1, 0, -1), (-4, 1, 0)),  # rock wins 4 from scissors
}
"""What the first player wins from the second."""
ENVS, EVERY = 64, 100
OFTEN = 0.8


def players(updates: int) -> Sides:
    """Two equal learners in a league that has room for all selves of so many updates."""
    rule = marlet.mapg(
        envs=ENVS,
        length=1,
        minibatches=1,
        hidden=(32,),
        standardise=False,
        learning_rate_end=0.003,
        entropy=1.0,
        entropy_end=0.3,
        entropy_steps=updates * ENVS,
    )
    return marlet.versus(rule, rule, league="past", slots=max(1, updates // EVERY), every=EVERY)


def strategies(env: Matrix, learned: Together) -> tuple[list[Float[Array, " a"]], list[Float[Array, " a"]]]:
    """Each player's chances of its actions: now, and on average over the selves kept."""
    _, step = env.reset(key=jax.random.key(0))
    latest, average = [], []
    for k, (now, league) in enumerate(zip(learned.sides, learned.leagues, strict=True)):
        seen = step_of(step, (k,))

        def chances(one, seen=seen):
            _, outputs = one.actor.step(one.actor.blank(1), seen.obs[None])
            return jnp.exp(log_chances(outputs, seen.available[None]))[0, 0]

        selves = jax.vmap(lambda arrays, now=now, chances=chances: chances(with_replay(arrays, now)))(league.past)
        kept = jnp.arange(len(selves)) < jnp.maximum(league.count, 1)
        latest.append(chances(now))
        average.append(kept @ selves / kept.sum())
    return latest, average


def played(payoff: Any, *, steps: float, seeds: int) -> tuple[Float[np.ndarray, "seeds 3"], list[np.ndarray]]:
    """NashConv before learning, of the latest and of the average policies; and the average ones, `seeds a` each."""
    one_device_per_core()
    env, updates = Matrix(payoff=opposed(payoff)), int(steps) // ENVS
    training = Training(env, players(updates), seeds=seeds)

    @jax.jit
    @jax.vmap
    def judged(learned: Together):
        latest, average = strategies(env, learned)
        far = [nash_conv(jnp.asarray(env.table), (first, second)) for first, second in (latest, average)]
        return jnp.stack(far), average

    training.start()
    before, _ = judged(training.snapshot().learned)
    training.advance(updates)
    after, average = judged(training.snapshot().learned)
    return np.concatenate([before[:, :1], after], axis=1), [np.asarray(chances) for chances in average]


def climbed(payoff: Any, *, steps: float, seeds: int) -> tuple[Float[np.ndarray, "seeds 3"], list[np.ndarray]]:
    """The same of two policy climbers that begin with their first action in `OFTEN` of all rounds."""
    env = Matrix(payoff=opposed(payoff))
    training = Training(env, marlet.wolf_phc(), seeds=seeds)
    training.start()
    uneven = np.full(len(payoff), (1 - OFTEN) / (len(payoff) - 1), np.float32)
    uneven[0] = OFTEN
    begun = training.snapshot()
    of = lambda progress: (progress.learned.policy, progress.learned.average)  # noqa: E731
    begun = eqx.tree_at(of, begun, tuple(np.broadcast_to(uneven, leaf.shape) for leaf in of(begun)))
    training.restore(begun)
    training.advance(int(steps))

    judged = jax.jit(jax.vmap(lambda one, two: nash_conv(jnp.asarray(env.table), (one, two))))
    policies = [leaf[:, :, 0] for leaf in (begun.learned.policy, *of(training.snapshot()))]
    far = np.stack([judged(policy[:, 0], policy[:, 1]) for policy in policies], axis=1)
    return far, [policies[-1][:, agent] for agent in (0, 1)]


def main() -> None:
    given = options(__doc__, steps=1e6, seeds=5).parse_args()
    for title, play in {"equilibrium": played, "climbers": climbed}.items():
        rows = []
        for game, payoff in GAMES.items():
            far, average = play(payoff, steps=given.steps, seeds=given.seeds)
            before, latest, mean = (told(column) for column in far.T)
            print(title, game, before, latest, mean, file=sys.stderr, flush=True)
            shown = " / ".join(listed(np.median(chances, axis=0)) for chances in average)
            aims = (zero_sum(jnp.asarray(own, jnp.float32))[1] for own in (payoff, -np.transpose(payoff)))
            rows.append(
                {"game": game, "before learning": before, "latest": latest, "average": mean}
                | {"average policies": shown, "equilibrium": " / ".join(map(listed, aims))}
            )
        report(title, rows, given.page)


def listed(chances: Any) -> str:
    """Chances of one player's actions, as text."""
    return " ".join(f"{chance:.2f}" for chance in np.asarray(chances))


if __name__ == "__main__":
    main()
