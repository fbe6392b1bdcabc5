"""Agents walk a grid and gather what lies in the cells they enter."""

import functools
import operator
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marlet.envs import drawing
from marlet.envs.base import Env, make_step
from marlet.errors import MarletError
from marlet.options import check_options, option
from marlet.types import Key, Spec, Step, computed_once

UP, DOWN, LEFT, RIGHT = range(4)


class GridState(eqx.Module):
    """A resource grid at one moment."""

    values: Float[Array, "*batch size size"]
    """What lies in each cell, 0 to 9."""
    row: Int[Array, "*batch n"]
    col: Int[Array, "*batch n"]
    total: Float[Array, "*batch"]
    """All that has ever been laid out; what is gone from it has been gathered."""
    time: Int[Array, "*batch"]

    @property
    def share(self) -> Float[Array, "*batch"]:
        """The part of everything laid out that the agents have gathered, from 0 to 1."""
        return 1 - self.values.sum((-2, -1)) / jnp.maximum(self.total, 1)


@dataclass(frozen=True)
class Grid(Env):
    """The resource grid: every cell holds a value, and the agent that enters a cell takes it.

    - **Agents** n = agents = 2: two teams, each agent being one of its own; with `shared` one team; one kind.
    - **Opening**: every cell holds an integer from 0 to 9, drawn at random. Agents start spread evenly along the border,
      two of them in the opposite corners (0, 0) and (size-1, size-1), or where `placement` says.
    - **Action** `n`, one of 4: 0 up, 1 down, 2 left, 3 right. A move into a wall leads back into the agent's own cell,
      which thereby counts as entered: so, and only so, is the value of a starting cell taken without leaving it.
    - **Reward**: the value of the cell entered, which is 0 from then on. Agents that enter one cell at the same time
      share its value equally. With `shared`, every agent is paid the sum of what all agents took.
    - **Regrowth**: after the agents have taken theirs, each empty cell is refilled with chance `regrowth` by an integer
      from 1 to 9, each as likely.
    - **Observation** `n d`, d = 2 + 2 window = 2: row and column, each as k/(size-1). With `sight` r > 0 there follow
      two windows of (2r+1)x(2r+1) cells around the agent, row by row: the values /9, with 0 outside the grid, and where
      others stand (1 or 0).
    - **State** `s`, s = size² + 2 n size = 45: all cells' values /9, row by row, then each agent's row one-hot, then each
      agent's column one-hot.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    The clock stands at 25 steps and not at the 100 of the usual programs, because 100 hide learning: random play
    gathers .97 of everything in 100 steps and .69 in 25.
    """

    size: int = option(5, "cells along each side", low=2)
    agents: int = option(2, "agents on the grid", low=1)
    sight: int = option(0, "cells an agent sees in each direction; 0: only where it stands", low=0)
    regrowth: float = option(0.0, "chance a step that an empty cell is refilled", low=0.0, high=1.0)
    shared: bool = option(
        False, "pay every agent the sum of all rewards (cooperative) instead of its own (conflicting)"
    )
    steps: int = option(25, "steps of an episode", low=1)
    placement: tuple[tuple[int, int], ...] = option((), "starting (row, column) of each agent; empty: along the border")

    def __post_init__(self):
        object.__setattr__(self, "placement", tuple(tuple(cell) for cell in self.placement))
        check_options(self)
        if self.placement and len(self.placement) != self.agents:
            raise MarletError(
                f"Grid: placement names {len(self.placement)} cells, but there are {self.agents} agents. "
                "Give one (row, column) for each agent."
            )
        for cell in self.placement:
            if len(cell) != 2 or not all(0 <= k < self.size for k in cell):
                raise MarletError(
                    f"Grid: placement holds {cell}, but a cell is (row, column), each from 0 to {self.size - 1}."
                )

    @property
    def window(self) -> int:
        """How many cells around it an agent sees."""
        return (2 * self.sight + 1) ** 2 if self.sight else 0

    @property
    def spec(self) -> Spec:
        return Spec(
            num_agents=self.agents,
            num_actions=4,
            obs_shape=(2 + 2 * self.window,),
            state_size=self.size**2 + 2 * self.agents * self.size,
            teams=(0,) * self.agents if self.shared else tuple(range(self.agents)),
            horizon=self.steps,
            mortal=False,
            levels=(self.size, self.size) + (10,) * self.window + (2,) * self.window,
        )

    def reset(self, *, key: Key) -> tuple[GridState, Step]:
        values = jax.random.randint(key, (self.size, self.size), 0, 10, jnp.int32).astype(jnp.float32)
        row, col = jnp.asarray(self.placement or border(self.size, self.agents), jnp.int32).T
        state = GridState(values=values, row=row, col=col, total=values.sum(), time=jnp.zeros((), jnp.int32))
        return state, self._say(state, jnp.zeros(self.agents))

    def step(self, state: GridState, action: Int[Array, " n"], *, key: Key) -> tuple[GridState, Step]:
        row = jnp.clip(state.row + (action == DOWN) - (action == UP), 0, self.size - 1)
        col = jnp.clip(state.col + (action == RIGHT) - (action == LEFT), 0, self.size - 1)
        row, col = computed_once((row, col))  # else each cell would draw the action again
        place = [row[i] * self.size + col[i] for i in range(self.agents)]
        # What an agent finds is summed cell by cell, since XLA's own sums over leading axes are slow.
        cells = [state.values[k // self.size, k % self.size] for k in range(self.size**2)]
        earned = []
        for own in place:
            worth = sum(jnp.where(own == k, cell, 0.0) for k, cell in enumerate(cells))
            visitors = sum(1.0 * (own == other) for other in place)
            earned.append(worth / visitors)
        entered = functools.reduce(operator.or_, (own == np.arange(self.size**2) for own in place))
        earned, values = jnp.stack(earned), jnp.where(entered.reshape(state.values.shape), 0.0, state.values)
        total = state.total
        if self.regrowth > 0:
            refilled = self._regrow(values, key=key)
            values, total = refilled, total + (refilled - values).sum()
        state = GridState(values=values, row=row, col=col, total=total, time=state.time + 1)
        return state, self._say(state, jnp.broadcast_to(earned.sum(), earned.shape) if self.shared else earned)

    def render(self, state: GridState) -> drawing.Frame:
        """Richer cells are greener; the agents are discs."""
        cell = max(240 // self.size, 16)
        values = np.asarray(state.values)
        rich, poor = np.array([120, 190, 110]), np.array([240, 236, 224])
        frame = drawing.board(poor + (rich - poor) * values[..., None] / 9, cell)
        dot = cell // 16
        for r, c in np.argwhere(values > 0):
            drawing.digit(frame, r * cell + 2 + dot, c * cell + 2 + dot, int(values[r, c]), dot, np.array([70, 90, 66]))
        drawing.agents(frame, np.asarray(state.row), np.asarray(state.col), cell)
        return frame

    def _regrow(self, values: Float[Array, "size size"], *, key: Key) -> Float[Array, "size size"]:
        # One draw tells both whether and what: given that it is below `regrowth`, their ratio is uniform again.
        draw = jax.random.uniform(key, values.shape) / self.regrowth
        return jnp.where((values == 0) & (draw < 1), 1 + jnp.floor(9 * draw), values)

    def _say(self, state: GridState, reward: Float[Array, " n"]) -> Step:
        cells = jnp.arange(self.size)
        obs = jnp.stack([state.row, state.col], -1) / (self.size - 1)
        if self.sight:
            obs = jnp.concatenate([obs, self._seen(state)], -1)
        rows, cols = ([place[i] == cells for i in range(self.agents)] for place in (state.row, state.col))
        return make_step(
            self.spec,
            obs=obs,
            state=jnp.concatenate([state.values.reshape(-1) / 9, *rows, *cols]),
            reward=reward,
            truncated=state.time >= self.steps,
        )

    def _seen(self, state: GridState) -> Float[Array, "n windows"]:
        """The two windows of each agent, by masks: a gather at a moving place would not fuse."""
        n, cells, reach = self.agents, jnp.arange(self.size), jnp.arange(-self.sight, self.sight + 1)
        in_row = (state.row[:, None] + reach)[:, :, None] == cells  # n, window row, size
        in_col = (state.col[:, None] + reach)[:, :, None] == cells  # n, window column, size
        strips = (in_row[..., None] * state.values).sum(2)  # n, window row, size
        values = (strips[:, :, None] * in_col[:, None]).sum(-1) / 9
        down, right = state.row - state.row[:, None], state.col - state.col[:, None]  # from agent i to agent j
        at = (down[:, :, None, None] == reach[:, None]) & (right[:, :, None, None] == reach)
        others = (at & ~jnp.eye(n, dtype=bool)[..., None, None]).any(1)
        return jnp.concatenate([values.reshape(n, -1), others.reshape(n, -1)], -1)


def border(size: int, agents: int) -> tuple[tuple[int, int], ...]:
    """Cells spread evenly along the border, clockwise from (0, 0): two agents get opposite corners, four get all.

    Where there are more agents than border cells, several start in one.
    """
    last = size - 1
    ring = (
        [(0, k) for k in range(last)]
        + [(k, last) for k in range(last)]
        + [(last, last - k) for k in range(last)]
        + [(last - k, 0) for k in range(last)]
    )
    return tuple(ring[i * len(ring) // agents] for i in range(agents))
