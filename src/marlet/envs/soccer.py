"""Small soccer: two players, one ball, and no pure strategy that is safe (Littman 1994)."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from marlet.envs.base import Env, make_step
from marlet.options import option
from marlet.types import Key, Spec, Step

ROWS, COLUMNS = 4, 5
STARTS = np.array([[2, 1], [1, 3]])
"""(row, column) of the two players, each on its own half."""
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


class Pitch(eqx.Module):
    """Where the players stand, who has the ball, and how the game stands."""

    place: Int[Array, "2 2"]
    """(row, column) of each player."""
    ball: Int[Array, ""]
    """Who has it."""
    over: Bool[Array, ""]
    """A goal was scored, or the game was called off."""
    clock: Int[Array, ""]


@dataclass(frozen=True)
class Soccer(Env):
    """Two players on 4 x 5 cells; who carries the ball off the board through the far goal wins.

    The rules of Littman 1994 (ICML, section 5.1). Every player sees and acts as if it attacked to the right, so that one
    table can play both sides.

    - **Agents** n = 2: two teams of one player each, one kind.
    - **Opening**: player 0 in the second column of its own view, player 1 likewise, in the two middle rows; either has
      the ball with even chance.
    - **Action** `n`, one of 5: 0 stand, 1 up, 2 down, 3 back, 4 forward. The two moves are made one after the other, in
      random order. Who moves into the other stays, and the other has the ball then. The edges are walls, but for the
      goals: the two middle rows of the last column, through which the player with the ball can move forward.
    - **Reward**: 1 for who scores, -1 for the other.
    - **Observation** `n d`, d = 5: own row and column, the other's row and column, whether it has the ball; each as
      k/(levels-1).
    - **State** `s`, s = 5: what player 0 observes.
    - **End**: a goal ends the game, and so does, after each step, chance `draw` (Littman's discount): then everyone
      dies. The clock cuts off after `steps` = 100 steps.

    Zero-sum. Two random players win equally often.
    """

    draw: float = option(0.1, "chance after each step that the game is called off", low=0.0, high=1.0)
    steps: int = option(100, "steps after which the clock cuts a game off", low=1)

    @property
    def spec(self) -> Spec:
        return Spec(
            num_agents=2,
            num_actions=len(MOVES),
            obs_shape=(5,),
            state_size=5,
            teams=(0, 1),
            horizon=self.steps,
            levels=(ROWS, COLUMNS, ROWS, COLUMNS, 2),
        )

    def reset(self, *, key: Key) -> tuple[Pitch, Step]:
        pitch = Pitch(
            place=jnp.array(STARTS, jnp.int32),
            ball=jax.random.bernoulli(key).astype(jnp.int32),
            over=jnp.zeros((), bool),
            clock=jnp.zeros((), jnp.int32),
        )
        return pitch, self._say(pitch, jnp.zeros(2))

    def step(self, state: Pitch, action: Int[Array, "2"], *, key: Key) -> tuple[Pitch, Step]:
        order_key, draw_key = jax.random.split(key)
        # Player 1 sees the board turned round: forward is to the left.
        move = jnp.array(MOVES)[action] * jnp.array([[1, 1], [1, -1]])
        first = jax.random.bernoulli(order_key).astype(jnp.int32)
        place, ball, scorer = state.place, state.ball, jnp.full((), -1)
        for who in (first, 1 - first):
            place, ball, scorer = _moved(place, ball, scorer, move, who)
        scores = jnp.where(scorer < 0, 0.0, jnp.where(jnp.arange(2) == scorer, 1.0, -1.0))
        reward = jnp.where(state.over, 0.0, scores)
        called_off = jax.random.bernoulli(draw_key, self.draw)
        over = state.over | (scorer >= 0) | called_off
        keep = lambda new, old: jnp.where(state.over, old, new)  # noqa: E731
        pitch = Pitch(keep(place, state.place), keep(ball, state.ball), over, state.clock + 1)
        return pitch, self._say(pitch, reward)

    def _say(self, pitch: Pitch, reward: Float[Array, "2"]) -> Step:
        top = jnp.array([ROWS - 1, COLUMNS - 1])
        turned = pitch.place.at[:, 1].set(COLUMNS - 1 - pitch.place[:, 1])
        view = lambda places, i: jnp.concatenate(  # noqa: E731
            [places[i] / top, places[1 - i] / top, (pitch.ball == i)[None]]
        )
        obs = jnp.stack([view(pitch.place, 0), view(turned, 1)])
        return make_step(
            self.spec,
            obs=obs,
            state=obs[0],
            reward=reward,
            alive=jnp.broadcast_to(~pitch.over, (2,)),
            truncated=~pitch.over & (pitch.clock >= self.steps),
        )

    def render(self, state: Pitch) -> str:
        """The pitch from above: player 0 is a, player 1 is b, capital with the ball; goals are open."""
        board = [["."] * COLUMNS for _ in range(ROWS)]
        for i, (row, column) in enumerate(np.asarray(state.place)):
            name = "ab"[i]
            board[row][column] = name.upper() if int(state.ball) == i else name
        edge = ["|", " ", " ", "|"]
        return "\n".join(f"{edge[row]}{''.join(cells)}{edge[row]}" for row, cells in enumerate(board))


def _moved(
    place: Int[Array, "2 2"], ball: Int[Array, ""], scorer: Int[Array, ""], move: Int[Array, "2 2"], who: Int[Array, ""]
) -> tuple[Int[Array, "2 2"], Int[Array, ""], Int[Array, ""]]:
    """One player's move; nothing moves any more once somebody has scored."""
    mine, other = place[who], place[1 - who]
    wanted = mine + move[who]
    inside = (wanted >= 0).all() & (wanted < jnp.array([ROWS, COLUMNS])).all()
    far = jnp.where(who == 0, COLUMNS, -1)
    goal = (wanted[1] == far) & ((mine[0] == 1) | (mine[0] == 2)) & (ball == who)
    bumps = (wanted == other).all()
    playing = scorer < 0
    free = playing & inside & ~bumps
    place = place.at[who].set(jnp.where(free, wanted, mine))
    ball = jnp.where(playing & bumps, 1 - who, ball)
    return place, ball, jnp.where(playing & goal, who, scorer)
