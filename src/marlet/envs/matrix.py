"""Games given by a table of payoffs: one choice each, all at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marlet.envs.base import Env, make_step
from marlet.errors import MarletError
from marlet.options import check_options, option
from marlet.types import Key, Spec, Step


def symmetric(row_payoff: Any) -> np.ndarray:
    """The game in which both agents stand alike: the second is paid by the transposed table."""
    return np.stack([row_payoff, np.transpose(row_payoff)])


def opposed(row_payoff: Any) -> np.ndarray:
    """The game in which the second agent loses what the first wins."""
    return np.stack([row_payoff, -np.asarray(row_payoff)])


def common(payoff: Any) -> np.ndarray:
    """The game in which both agents are paid the same."""
    return np.stack([payoff, payoff])


GAMES = {
    "prisoners_dilemma": symmetric([[3, 0], [5, 1]]),  # cooperate, defect
    "stag_hunt": symmetric([[4, 0], [3, 3]]),  # stag, hare
    "chicken": symmetric([[6, 2], [7, 0]]),  # swerve, dare
    "battle_of_sexes": np.array([[[2, 0], [0, 1]], [[1, 0], [0, 2]]]),
    "matching_pennies": opposed([[1, -1], [-1, 1]]),  # the first agent wins when the coins match
    "rock_paper_scissors": opposed([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]),
    "climbing": common([[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),  # Claus & Boutilier 1998
    "penalty": common([[10, 0, np.nan], [0, 2, 0], [np.nan, 0, 10]]),  # the same; `penalty` fills the corners
    "qtran": common([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]),  # Son et al. 2019, arXiv:1905.05408, table 1
}


class MatrixState(eqx.Module):
    """How many rounds have been played, and the latest choices."""

    time: Int[Array, "*batch"]
    last: Int[Array, "*batch k n"]
    """Of the latest rounds, the last one first; -1 before the first round."""


@dataclass(frozen=True)
class Matrix(Env):
    """A matrix game: everyone chooses at once and is paid by a table.

    - **Agents** n = 2, or as many as your own `payoff` has axes of choices. Those paid by equal tables are of one team, so
      a common payoff, such as that of `climbing`, makes one team of all. Those with equally many choices are of one kind.
    - **Action** `n`, one of 3 in `climbing`: the row for agent 0, the column for agent 1, the next axis for agent 2, and
      so on. Where agents have unequally many choices, the surplus ones are not available.
    - **Reward**: `payoff[i, a_0, ..., a_n-1]` for agent i.
    - **Observation** `n d`, d = 1 + n memory = 1: the constant 1; nothing tells the rounds of a repeated game apart. With
      `memory` k > 0 there follow the choices of the last k rounds, the latest first, in each round an agent's own first
      and then the others' in their order: choice a of c as (a + 1) / c, and 0 before the first round.
    - **State** `s`, s = 1 + n memory = 1: what agent 0 observes.
    - **End**: after `rounds` = 1 rounds everyone dies. That is an end and no cut by the clock: nothing would have
      followed, so nothing is bootstrapped. With `endless` it is the clock that cuts off a game which would have gone on.

    Own payoffs have shape (n, a_0, ..., a_n-1), a common payoff has shape (a_0, ..., a_n-1). A table that fits both
    readings, such as a common one of shape (2, 2, 2), is read as own payoffs: stack the common one n times then.

    Raises:
        MarletError: for a payoff that is ragged, empty or not finite.
    """

    game: str = option("climbing", "which game, unless `payoff` is given", choices=tuple(GAMES))
    payoff: tuple[Any, ...] = option((), "a table of your own, nested tuples or an array; empty: the named game's")
    penalty: float = option(-100.0, "what miscoordination pays in the game `penalty`", high=0.0)
    rounds: int = option(1, "rounds of an episode", low=1)
    memory: int = option(0, "rounds that players remember", low=0, high=3)
    endless: bool = option(False, "whether the game would go on after its last round")

    def __post_init__(self):
        # Tuples, because options are compared, hashed and written to the run's record.
        object.__setattr__(self, "payoff", nested(as_table(self.payoff)))
        check_options(self)

    @property
    def table(self) -> Float[np.ndarray, "n *actions"]:
        """What each agent is paid for each joint action."""
        own = as_table(self.payoff)
        if not own.size:
            own = np.where(np.isnan(GAMES[self.game]), self.penalty, GAMES[self.game]).astype(np.float32)
        return own if own.shape[0] == own.ndim - 1 else np.stack([own] * own.ndim)

    @property
    def spec(self) -> Spec:
        table = self.table
        return Spec(
            num_agents=len(table),
            num_actions=max(table.shape[1:]),
            obs_shape=(1 + self.memory * len(table),),
            state_size=1 + self.memory * len(table),
            kinds=grouped(table.shape[1:]),
            teams=grouped([nested(own) for own in table]),
            horizon=self.rounds,
            # Players with unequally many choices share one scale, that of the most.
            levels=(1,) + (max(table.shape[1:]) + 1,) * (self.memory * len(table)),
        )

    def reset(self, *, key: Key) -> tuple[MatrixState, Step]:
        n = len(self.table)
        state = MatrixState(time=jnp.zeros((), jnp.int32), last=jnp.full((max(self.memory, 1), n), -1, jnp.int32))
        return state, self._say(state, jnp.zeros(n))

    def step(self, state: MatrixState, action: Int[Array, " n"], *, key: Key) -> tuple[MatrixState, Step]:
        # Masks, one axis after the other, fuse where a gather would not.
        pay = jnp.asarray(self.table)
        for i, choices in enumerate(self.table.shape[1:]):
            chosen = action[i] == jnp.arange(choices)
            pay = jnp.where(chosen.reshape((-1,) + (1,) * (pay.ndim - 2)), pay, 0.0).sum(1)
        reward = jnp.where((state.time < self.rounds) | self.endless, pay, 0.0)
        last = jnp.concatenate([action.astype(jnp.int32)[None], state.last[:-1]])
        state = MatrixState(time=state.time + 1, last=last)
        return state, self._say(state, reward)

    def render(self, state: MatrixState) -> str:
        """The joint actions and what each pays, the last one played marked."""
        table, last = self.table, tuple(int(a) for a in np.asarray(state.last)[0])
        lines = [f"round {int(state.time)} of {self.rounds}"]
        for joint in np.ndindex(table.shape[1:]):
            pays = "  ".join(f"{pay:g}" for pay in table[(slice(None), *joint)])
            lines.append(f"{'>' if joint == last else ' '} {joint}: {pays}")
        return "\n".join(lines)

    def _say(self, state: MatrixState, reward: Float[Array, " n"]) -> Step:
        spec, choices = self.spec, np.array(self.table.shape[1:])
        n = spec.num_agents
        done = state.time >= self.rounds
        alive = jnp.broadcast_to(~done | self.endless, (n,))
        ones = jnp.ones((n, 1))
        if self.memory:
            orders = np.array([[i, *(j for j in range(n) if j != i)] for i in range(n)])
            seen = (state.last + 1) / spec.num_actions
            obs = jnp.concatenate([ones, seen[:, orders].swapaxes(0, 1).reshape(n, -1)], axis=1)
        else:
            obs = ones
        return make_step(
            spec,
            obs=obs,
            state=obs[0],
            reward=reward,
            available=jnp.asarray(np.arange(spec.num_actions) < choices[:, None]) | ~alive[:, None],
            alive=alive,
            truncated=done & self.endless,
        )


def as_table(payoff: Any) -> Float[np.ndarray, "..."]:
    """A user's payoffs as an array.

    Raises:
        MarletError: for a table that is ragged, of anything but numbers, empty along an axis, or not finite.
    """
    try:
        table = np.asarray(payoff, np.float32)
    except (TypeError, ValueError):
        raise MarletError(
            "Matrix: payoff must be a full table of numbers, but its rows differ in length or hold something else. "
            "Give every agent the same choices in every row."
        ) from None
    if table.ndim == 0 or (table.size == 0 and table.shape != (0,)):
        raise MarletError(f"Matrix: payoff has shape {table.shape}, but needs an axis of choices for each agent.")
    if not np.isfinite(table).all():
        raise MarletError("Matrix: payoff holds a value that is not finite. Give every joint action a number.")
    return table


def grouped(items: Sequence[Any]) -> tuple[int, ...]:
    """A number for each item, the same for equal ones, counted in order of appearance."""
    seen = list(dict.fromkeys(items))
    return tuple(seen.index(item) for item in items)


def nested(table: np.ndarray) -> Any:
    """An array as tuples of tuples of Python numbers."""
    return tuple(nested(row) for row in table) if table.ndim else table.item()
