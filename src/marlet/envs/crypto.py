"""Two agents share a key, a third listens in (mpe2's `simple_crypto_v3`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post

WORDS = 4
EVE, BOB, ALICE = range(3)


@dataclass(frozen=True)
class Crypto(Particles):
    """Alice sends Bob a message in public; both have a key, Eve has none. Nobody moves: all are heard.

    Equal to `mpe2.simple_crypto_v3` (Lowe et al. 2017, arXiv:1706.02275), to rounding error.

    - **Agents** n = 3: Eve, Bob, Alice; two teams, Eve being one of her own; three kinds.
    - **Observation** `n d`, d = 8: Alice the message (4, one-hot in its first two) and the key (4, likewise); Bob the
      key (4) and what Alice said last (4); Eve what Alice said last (4), then zeros.
    - **State** `s`, s = 16: what each said last (12), the message (2) and the key (2), one-hot.
    - **Action** `n`, one of 4 (with `continuous` `n a`, a = 4): the word to say.
    - **Reward** of Eve: minus the squared distance of her word to the message. Of Bob and Alice: Eve's squared distance
      less Bob's. Words of all zeros, which only vectors can say, count for nothing.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    Return per episode of random play: Eve about -37.5, Bob and Alice about 0.
    """

    @property
    def figures(self) -> tuple[Figure, ...]:
        still = {"moves": False, "collides": False, "words": WORDS}
        return (
            Figure("eve_0", kind=0, team=0, **still),
            Figure("bob_0", kind=1, team=1, **still),
            Figure("alice_0", kind=2, team=1, **still),
        )

    @property
    def posts(self) -> tuple[Post, ...]:
        return (Post(),) * 2

    @property
    def obs_size(self) -> int:
        return 2 * WORDS

    @property
    def goals(self) -> int:
        return 2

    def observe(self, bodies: Bodies) -> list[Float[Array, " d"]]:
        message, key = (jnp.pad(mark, (0, WORDS - 2)) for mark in bodies.goal)
        heard = bodies.said[ALICE]
        return [heard, jnp.concatenate([key, heard]), jnp.concatenate([message, key])]

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        message = jnp.pad(bodies.goal[0], (0, WORDS - 2))
        missed = lambda said: jnp.where((said != 0).any(), ((said - message) ** 2).sum(), 0.0)  # noqa: E731
        eve, bob = missed(bodies.said[EVE]), missed(bodies.said[BOB])
        return [-eve, eve - bob, eve - bob]
