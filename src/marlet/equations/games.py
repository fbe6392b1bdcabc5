"""Games of two players in tables: the value of a zero-sum game, and what players could gain by deviating."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Payoffs are scaled to [1, 2] and kept in single precision. Where rows or columns are almost the same, as in tables that
# have nearly settled, the smallest entries of a tableau are rounding errors, and a pivot on one of them ruins the rest.
SETTLED = 3e-6
"""A gain smaller than this is taken for none."""
NOTHING = 1e-5
"""An entry smaller than this is no pivot."""
SLACK = 3e-5
"""How far a constraint may be overstepped for the sake of a larger pivot (Harris 1973)."""


def zero_sum(
    payoff: Float[Array, "a b"], rows: Bool[Array, " a"] | None = None, columns: Bool[Array, " b"] | None = None
) -> tuple[Float[Array, ""], Float[Array, " a"]]:
    """What the row player can be sure of, and the mixed strategy that makes sure of it.

    `payoff[i, j]` is what the row player earns; `rows` and `columns` say which actions are legal (at least one each,
    all when left out). Exact up to rounding: the linear program of von Neumann, solved by the simplex method. May be
    compiled and mapped over many games. The value is what the strategy earns against its worst opponent.

    With payoffs shifted to be positive the column player's program is `max sum y, A y <= 1, y >= 0`; the row player's
    strategy is the dual solution, scaled to probabilities.
    """
    a, b = payoff.shape
    rows = jnp.ones(a, bool) if rows is None else rows
    columns = jnp.ones(b, bool) if columns is None else columns
    legal = rows[:, None] & columns
    low = jnp.where(legal, payoff, jnp.inf).min()
    high = jnp.where(legal, payoff, -jnp.inf).max()
    scale = jnp.where(high > low, high - low, 1.0)
    # An illegal row is never binding (all zero); an illegal column gains nothing and so never enters the basis.
    game = jnp.where(legal, (payoff - low) / scale + 1, jnp.where(rows[:, None], 1.0, 0.0))
    tableau = jnp.block(
        [
            [game, jnp.eye(a), jnp.ones((a, 1))],
            [-columns[None].astype(payoff.dtype), jnp.zeros((1, a + 1))],
        ]
    )
    tableau = _simplex(tableau)
    dual = jnp.clip(tableau[-1, b : b + a], 0)
    strategy = dual / dual.sum()
    return jnp.where(columns, strategy @ jnp.where(legal, payoff, 0.0), jnp.inf).min(), strategy


def _simplex(tableau: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Pivot until no entry of the last row is negative. The slack variables, before the last column, are the first basis.

    The variable that gains most enters. Of the rows that bind it, or would if `SLACK` were taken from them, the one with
    the largest pivot leaves (the ratio test of Harris 1973, Mathematical Programming 5).
    """
    width = tableau.shape[1] - 1

    def unfinished(carry):
        tableau, pivots = carry
        # A safeguard only: these programs need about two pivots a row.
        return (tableau[-1, :-1] < -SETTLED).any() & (pivots < 20 * width)

    def pivot(carry):
        tableau, pivots = carry
        entering = jnp.argmin(tableau[-1, :-1])
        column, bound = tableau[:-1, entering], jnp.maximum(tableau[:-1, -1], 0)
        binds = column > NOTHING
        farthest = jnp.where(binds, (bound + SLACK) / jnp.where(binds, column, 1), jnp.inf).min()
        leaving = jnp.argmax(jnp.where(binds & (bound <= farthest * column), column, -jnp.inf))
        row = tableau[leaving] / tableau[leaving, entering]
        tableau = (tableau - tableau[:, entering, None] * row).at[leaving].set(row)
        return tableau, pivots + 1

    return jax.lax.while_loop(unfinished, pivot, (tableau, 0))[0]


def nash_conv(
    payoffs: Float[Array, "2 a b"], strategies: tuple[Float[Array, " a"], Float[Array, " b"]]
) -> Float[Array, ""]:
    """What the two players together would gain if each alone changed to its best reply; 0 exactly at an equilibrium.

    Lanctot et al. 2017 (arXiv:1711.00832). `payoffs[k, i, j]` is player k's earning when the first plays i and the
    second j.
    """
    first, second = strategies
    gain = (payoffs[0] @ second).max() - first @ payoffs[0] @ second
    return gain + (first @ payoffs[1]).max() - first @ payoffs[1] @ second


def exploitability(payoff: Float[Array, "a b"], strategy: Float[Array, " a"]) -> Float[Array, ""]:
    """What the row player's strategy of a zero-sum game loses to its worst opponent, against the game's value."""
    value, _ = zero_sum(payoff)
    return value - (strategy @ payoff).min()
