"""Hunters led by one who sees all and speaks, prey that hide and eat (mpe2's `simple_world_comm_v3`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post, length, others_than, out_of_bounds, touch
from marlet.options import option

HUNTER, PREY = 0.075, 0.045
OBSTACLE, FOOD, FOREST = 0.2, 0.03, 0.3
WORDS = 4


@dataclass(frozen=True)
class WorldComm(Particles):
    """`hunters` chase `prey` that want to eat; who is in a forest is seen only from within, and by the leader.

    Equal to `mpe2.simple_world_comm_v3` (Lowe et al. 2017, arXiv:1706.02275), to rounding error.

    - **Agents** n = hunters + prey = 6: the hunters' leader, the other hunters, the prey; two teams, three kinds.
      Landmarks: obstacles, then food, then forests.
    - **Observation** `n d`, d = 6 + 2 obstacles + 2 food + 3 forests + 2 hunters + 4 prey = 34: hunters own velocity
      (2) and position (2), landmarks relative to it (2 each), others relative to it (2 each), velocities of the prey (2
      each), whether it is in each forest (1 or -1), and the leader's last word (4). Of prey: the same with the forests
      before the velocities of the other prey, without the word, then zeros. Others that are hidden show zeros. Nobody
      is hidden from the leader.
    - **State** `s`, s = 4 + 4 n + 2 obstacles + 2 food + 2 forests = 38: positions, velocities, landmarks, and the
      leader's word.
    - **Action** `n`, one of 20 (with `continuous` `n a`, a = 9): 0 nothing, 1 left, 2 right, 3 down, 4 up; of the leader
      `push + 5 word`, with words 0 to 3.
    - **Reward** of each hunter: 5 for each pair of a hunter and a prey that touch, less a tenth of its distance to the
      nearest prey. Of each prey: -5 for each hunter that touches it, twice the fine for leaving the arena, 2 for each
      food it touches, less a twentieth of the distance to the nearest food.
    - **End**: truncated after `steps` = 25 steps; nobody dies.
    """

    prey: int = option(2, "number of prey", low=1, high=16)
    hunters: int = option(4, "number of hunters, the leader among them", low=1, high=16)
    obstacles: int = option(1, "number of obstacles", low=0, high=16)
    food: int = option(2, "number of places with food", low=1, high=16)
    forests: int = option(2, "number of forests", low=1, high=16)

    @property
    def figures(self) -> tuple[Figure, ...]:
        leader = Figure("leadadversary_0", 0, 0, HUNTER, 3.0, 1.0, words=WORDS)
        hunters = [Figure(f"adversary_{i}", 1, 0, HUNTER, 3.0, 1.0) for i in range(self.hunters - 1)]
        return (leader, *hunters, *(Figure(f"agent_{i}", 2, 1, PREY, 4.0, 1.3) for i in range(self.prey)))

    @property
    def posts(self) -> tuple[Post, ...]:
        obstacles, food, forests = Post(OBSTACLE, collides=True), Post(FOOD), Post(FOREST)
        return (obstacles,) * self.obstacles + (food,) * self.food + (forests,) * self.forests

    @property
    def obs_size(self) -> int:
        others = self.hunters + self.prey - 1
        return 4 + 2 * len(self.posts) + 2 * others + 2 * self.prey + self.forests + WORDS

    @property
    def reach(self) -> float:
        return 0.9

    def observe(self, bodies: Bodies) -> list[Float[Array, " d"]]:
        agents = range(self.hunters + self.prey)
        hidden = self._hidden(bodies)
        covered = [within.any() for within in hidden]
        views = []
        for i in agents:
            others = others_than(i, agents)
            sees = {j: (hidden[i] & hidden[j]).any() | (~covered[i] & ~covered[j]) | (i == 0) for j in others}
            seen = lambda j, what, sees=sees: jnp.where(sees[j], what, 0.0)  # noqa: E731
            own = bodies.position[i]
            forests = jnp.where(hidden[i], 1.0, -1.0)
            velocities = [seen(j, bodies.velocity[j]) for j in others if j >= self.hunters]
            last = [*velocities, forests, bodies.said[0]] if i < self.hunters else [forests, *velocities]
            views.append(
                jnp.concatenate(
                    [
                        bodies.velocity[i],
                        own,
                        *(bodies.landmark[k] - own for k in range(len(self.posts))),
                        *(seen(j, bodies.position[j] - own) for j in others),
                        *last,
                    ]
                )
            )
        return views

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        hunters, preys = range(self.hunters), range(self.hunters, self.hunters + self.prey)
        caught = jnp.array([[5.0 * touch(bodies, i, j, HUNTER + PREY) for i in hunters] for j in preys]).sum(1)
        meals = range(self.obstacles, self.obstacles + self.food)
        pays = []
        for i in hunters:
            nearest = jnp.min(jnp.stack([length(bodies.position[j] - bodies.position[i]) for j in preys]))
            pays.append(caught.sum() - 0.1 * nearest)
        for k, j in enumerate(preys):
            away = jnp.stack([length(bodies.landmark[m] - bodies.position[j]) for m in meals])
            eaten = 2.0 * (away < PREY + FOOD).sum() - 0.05 * away.min()
            pays.append(eaten - caught[k] - 2.0 * out_of_bounds(bodies.position[j]))
        return pays

    def _hidden(self, bodies: Bodies) -> list[Bool[Array, " forests"]]:
        """Which forests each agent is in."""
        trees = bodies.landmark[self.obstacles + self.food :]
        return [length(trees - bodies.position[i]) < figure.size + FOREST for i, figure in enumerate(self.figures)]
