"""Random bits that cost little: a counter, hashed with a key.

JAX's usual generator, threefry, encrypts its counter in twenty rounds; on a CPU that is most of what a small
environment costs. Here the counter passes twice through a mixer of 32-bit words (two multiplications and three shifts
each), which fuses into whatever uses the bits. It is counter-based like threefry: bits depend on the key and the place
alone, so that they are the same under jit, vmap and any device. It is not for secrets. `tests/test_keys.py` holds it to
uniformity, independence of neighbouring counters and keys, and avalanche, with a weak generator as negative control.
"""

import math

import jax
import jax.extend.random
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt, UInt32

from marlet.types import Key

# Each use of a key has constants of its own, so that bits, children and folded keys never meet.
CHILD, FOLDED, SEEDED = (0x3C6EF372, 0xBB67AE85), (0xA54FF53A, 0x510E527F), (0x9B05688C, 0x1F83D9AB)
LONG = (0x5BE0CD19, 0x6A09E667)
NAME = "hashed"
"""What runs note as the kind of their random numbers."""


def new_key(seed: int | UInt32[Array, ""]) -> Key:
    """The key of a seed. It goes wherever one of `jax.random.key` does."""
    return jax.random.key(seed, impl=HASHED)


def _mixed(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A one-to-one map of words in which each bit of the result depends on all bits of `x` (the constants are those that
    a search by H. Prospector found to be least biased)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)


def _words(key: UInt32[Array, "2"], counter: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A word for each count. Not one-to-one: words may repeat, as they do when drawn."""
    once = _mixed(counter ^ key[0])
    return _mixed(once + key[1]) ^ once


def _pairs(
    key: UInt32[Array, "2"], purpose: tuple[int, int], counter: UInt32[Array, "*shape"]
) -> UInt32[Array, "*shape 2"]:
    one, two = (jnp.array(constants, jnp.uint32) for constants in (purpose, purpose[::-1]))
    return jnp.stack([_words(key ^ one, counter), _words(key ^ two, counter)], axis=-1)


def _seed(seed: Int[Array, ""]) -> UInt32[Array, "2"]:
    return _pairs(jnp.zeros(2, jnp.uint32), SEEDED, jnp.asarray(seed).astype(jnp.uint32))


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    return _pairs(key, CHILD, _count(shape))


def _fold_in(key: UInt32[Array, "2"], data: UInt32[Array, ""]) -> UInt32[Array, "2"]:
    return _pairs(key, FOLDED, jnp.asarray(data).astype(jnp.uint32))


def _random_bits(key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]) -> UInt[Array, "*shape"]:
    if bit_width == 32:
        return _words(key, _count(shape))
    if bit_width == 64:
        high, low = _pairs(key, LONG, _count(shape)).astype(jnp.uint64).T
        return ((high << 32) | low).T
    narrow, per_word, size = jnp.dtype(f"uint{bit_width}"), 32 // bit_width, math.prod(shape)
    words = _words(key, jnp.arange(-(-size // per_word), dtype=jnp.uint32))
    return jax.lax.bitcast_convert_type(words, narrow).reshape(-1)[:size].reshape(shape)


def _count(shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    return jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)


HASHED = jax.extend.random.define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name=NAME, tag="hsh"
)
