"""Self-play on games with mixed equilibria: how far the latest policies, and their average, are from equilibrium.

    python examples/equilibrium.py

Prints, for two games, what an opponent that knows the policies could win from them (NashConv, the sum over both players; 0
at an equilibrium): of the policies as they are at the end, and of the average of all past selves. A strong entropy bonus
keeps the players from running off to pure strategies; both equilibria are uniform, so it does not move them.
"""

import argparse
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import marlet
from marlet.envs.matrix import Matrix
from marlet.equations.distributions import log_chances
from marlet.equations.games import nash_conv

GAMES = ("matching_pennies", "rock_paper_scissors")


def strategies(policy: marlet.Policy, env: Matrix) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each side's probabilities of its actions: now, and on average over its past selves."""
    from marlet.algorithms.sides import step_of, with_replay

    _, step = env.reset(key=jax.random.key(0))
    latest, average = [], []
    for k, (now, league) in enumerate(zip(policy.learned.sides, policy.learned.leagues, strict=True)):
        seen = step_of(step, (k,))

        def chances(one, seen=seen):
            _, outputs = one.actor.step(one.actor.blank(1), seen.obs[None])
            return jnp.exp(log_chances(outputs, seen.available[None]))[0, 0]

        kept = jnp.minimum(league.count, league.fared.shape[0])
        selves = jax.vmap(lambda arrays, now=now, chances=chances: chances(with_replay(arrays, now)))(league.past)
        latest.append(np.asarray(chances(now)))
        average.append(np.asarray(selves[: int(kept)].mean(0)))
    return latest, average


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("--steps", type=float, default=5e5)
    reader.add_argument("--seeds", type=int, default=5)
    given = reader.parse_args()
    print(f"{'game':<22}{'NashConv: latest':>18}{'average':>10}   average strategies of the first seed")
    for game in GAMES:
        env = Matrix(game=game)
        rule = marlet.mapg(
            envs=64, length=1, minibatches=1, learning_rate=0.003, learning_rate_end=0.003, entropy=0.3, entropy_end=0.3
        )
        both = marlet.versus(rule, rule, league="past", slots=100, every=50)
        with tempfile.TemporaryDirectory() as folder:
            run = marlet.train(env, both, steps=given.steps, seeds=given.seeds, out=folder, evaluations=1, quiet=True)
            found = [strategies(marlet.load(run.path, seed=seed), env) for seed in range(given.seeds)]
        far = [[float(nash_conv(env.table, tuple(map(jnp.asarray, pair)))) for pair in both] for both in found]
        latest, average = np.median(far, axis=0)
        shown = " | ".join(np.array2string(strategy, precision=2) for strategy in found[0][1])
        print(f"{game:<22}{latest:>18.3f}{average:>10.3f}   {shown}")


if __name__ == "__main__":
    main()
