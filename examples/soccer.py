"""What learned soccer players are worth against the opponent that knows them best.

    python examples/soccer.py

Minimax-Q and Q-learning each play both sides and learn from it (Littman 1994). At several times their policies are frozen,
and the best reply to each is computed exactly: the game has 800 positions, so all that can follow is written down once, from
the environment's own rules. The opening's ball is drawn, and each number is the mean over the two sides.
"""

from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from studies import draw, options, report, told

import marlet
from marlet.algorithms.tabular import Tables
from marlet.engine.devices import one_device_per_core
from marlet.engine.train import Training
from marlet.envs.soccer import MOVES, Pitch, Soccer
from marlet.equations.games import zero_sum
from marlet.parts.tables import entry, preferred

POINTS = 10
"""Times at which the policies are frozen."""
FAST = {"envs": 256, "learning_rate": 0.1, "initial_value": 1.0}
ITSELF, CHANCE = ({"epsilon_start": share, "epsilon_end": share} for share in (0.5, 1.0))
"""Every other move is random, or every move: then one learns what would beat random play."""
PLAYERS = {
    "minimax_q": marlet.minimax_q(**FAST, **ITSELF),
    "tabular_iql": marlet.tabular_iql(**FAST, **ITSELF),
    "tabular_iql, from random play": marlet.tabular_iql(**FAST, **CHANCE),
}


class Rules(NamedTuple):
    """What follows each position and each pair of moves, in each of the two orders in which moves are made.

    Positions are counted as player 0 sees them.
    """

    position: Int[np.ndarray, "s a a 2"]
    reward: Float[np.ndarray, "s a a 2"]
    """Of player 0."""
    goes_on: Float[np.ndarray, "s a a 2"]
    """The chance that the game does: 0 after a goal."""
    seen: Int[np.ndarray, "s 2"]
    """As which position each player sees this one: player 1 has the board turned round."""
    openings: Int[np.ndarray, " 2"]


def rules(env: Soccer) -> Rules:
    """The whole game."""
    sure, levels, a = Soccer(draw=0.0), env.spec.levels, len(MOVES)
    keys = jax.random.split(jax.random.key(0), 64)
    step = lambda pitch, action, key: sure.step(pitch, action, key=key)  # noqa: E731

    def pitch(place, ball) -> Pitch:
        return Pitch(jnp.array(place), jnp.asarray(ball), jnp.zeros((), bool), jnp.zeros((), jnp.int32))

    # Both run for the cell between them: who has it tells the order of the moves.
    race = jax.vmap(step, (None, None, 0))(pitch([[1, 1], [1, 3]], 0), jnp.array([4, 4]), keys)[0]
    orders = keys[np.unique(race.place[:, 0, 1], return_index=True)[1]]

    def follows(features, action, key):
        _, said = step(pitch(features[:4].reshape(2, 2), 1 - features[4]), action, key)
        return entry(said.obs, levels), said.reward[0], said.alive[0]

    every = jnp.array(list(product(*map(range, levels))))
    pairs = jnp.array(list(product(range(a), range(a))))
    each = jax.vmap(jax.vmap(jax.vmap(follows, (None, None, 0)), (None, 0, None)), (0, None, None))
    seen, reward, goes_on = (
        np.asarray(x).reshape(len(every), a, a, 2, -1) for x in jax.jit(each)(every, pairs, orders)
    )
    opening = jax.vmap(lambda key: sure.reset(key=key)[1].obs[0])(keys)
    return Rules(
        position=seen[..., 0],
        reward=reward[..., 0],
        goes_on=(1 - env.draw) * goes_on[..., 0],
        seen=seen[:, 0, 0, 0],  # who stands still sees the same again
        openings=np.unique(entry(opening, levels)),
    )


def worst_case(game: Rules, policies: Float[Array, "2 s a"], steps: int) -> Float[Array, "2"]:
    """The chances that a frozen player wins and loses against its best reply, over the two sides and the opening's ball."""
    shares = []
    for side in (0, 1):
        turned = lambda x, side=side: jnp.asarray(x.swapaxes(1, 2) if side else x)  # noqa: E731
        position, goes_on, reward = map(turned, (game.position, game.goes_on, game.reward * (-1) ** side))
        goals = jnp.stack([reward > 0, reward < 0])
        own = policies[side][game.seen[:, side]]

        def step(_, chances, own=own, goals=goals, position=position, goes_on=goes_on):
            won, lost = jnp.einsum("sa,csabk->csb", own, goals + goes_on * chances[:, position]) / 2
            reply = jnp.argmin(won - lost, axis=1)[:, None]
            return jnp.stack([jnp.take_along_axis(x, reply, 1)[:, 0] for x in (won, lost)])

        chances = jax.lax.fori_loop(0, steps, step, jnp.zeros((2, len(own))))
        shares.append(chances[:, game.openings].mean(1))
    return jnp.stack(shares).mean(0)


def equilibrium(game: Rules, steps: int) -> Float[np.ndarray, "s a"]:
    """The safest policy there is, by value iteration over games of one step (Shapley 1953)."""
    solve = jax.jit(jax.vmap(zero_sum))
    value = np.zeros(len(game.seen))
    for _ in range(steps):
        value, policy = map(np.asarray, solve((game.reward + game.goes_on * value[game.position]).mean(-1)))
    return policy


def policies(learned: Any) -> Float[Array, "*seeds 2 s a"]:
    """What both players have learned to do."""
    if isinstance(learned, Tables):
        return preferred(learned.values, jnp.ones(learned.values.shape, bool))
    return learned.policy


def frozen(
    env: Soccer, game: Rules, rule: marlet.Algorithm, *, steps: float, seeds: int
) -> Float[np.ndarray, "points seeds 2"]:
    """How each seed's policy fares against its best reply, at even times of its learning: chances to win and to lose."""
    training = Training(env, rule, seeds=seeds)
    training.start()
    judge = jax.jit(jax.vmap(lambda pair: worst_case(game, pair, env.steps)))
    found = []
    for _ in range(POINTS):
        training.advance(int(steps / POINTS / training.steps_per_iteration))
        found.append(judge(policies(training.snapshot().learned)))
    return np.array(found)


def main() -> None:
    given = options(__doc__, steps=4e6, seeds=5).parse_args()
    one_device_per_core()
    env = Soccer()
    game = rules(env)
    rows, lines = [], {}

    def row(name: str, shares: Float[np.ndarray, "seeds 2"]) -> None:
        won, lost = shares.T
        rows.append({"player": name, "won - lost": told(won - lost, 3), "won": told(won, 3), "lost": told(lost, 3)})

    for name, rule in PLAYERS.items():
        fared = frozen(env, game, rule, steps=given.steps, seeds=given.seeds)
        row(name, fared[-1])
        lines[name] = np.linspace(0, given.steps, POINTS + 1)[1:], fared[..., 0] - fared[..., 1]
    even = np.full((len(game.seen), len(MOVES)), 1 / len(MOVES))
    for name, policy in {"random play": even, "equilibrium": equilibrium(game, env.steps)}.items():
        row(name, np.array(worst_case(game, jnp.stack([policy] * 2), env.steps))[None])
    report("soccer", rows, given.page)
    draw(given.picture, {("environment steps", "won - lost against the best reply"): lines})


if __name__ == "__main__":
    main()
