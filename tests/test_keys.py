"""Random bits: a battery of statistics, each of which some weak generator must fail; and the promises of a key."""

from functools import cache

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from marlet.keys import HASHED, new_key

LIMIT = 5.5
"""Standard deviations. The battery compares some ten thousand numbers, the largest of which is near 4.2 if all is well."""


def weak(name, word):
    """A generator built as the real one is, but on a worse `word(key, counter)`."""

    def pairs(key, purpose, counter):
        key = key ^ jnp.uint32(purpose)
        return jnp.stack([word(key, 2 * counter), word(key, 2 * counter + 1)], axis=-1)

    count = lambda shape: jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32).reshape(shape)  # noqa: E731
    return jax.extend.random.define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jnp.stack([jnp.uint32(0), jnp.asarray(seed).astype(jnp.uint32)]),
        split=lambda key, shape: pairs(key, 1, count(shape)),
        random_bits=lambda key, width, shape: word(key, count(shape)),
        fold_in=lambda key, data: pairs(key, 2, jnp.asarray(data).astype(jnp.uint32)),
        name=name,
        tag=name[:3],
    )


def multiplied_once(key, counter):
    x = counter ^ key[0] ^ key[1]
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    return x ^ (x >> 15)


WEAK = (
    weak("steps of one odd constant", lambda key, counter: key[0] + key[1] + counter * jnp.uint32(0x9E3779B1)),
    weak("multiplied once", multiplied_once),
)


# --- streams ---------------------------------------------------------------------------------------------------------


def words_of(keys, count):
    """The first words of each key, one row a key."""
    return np.asarray(jax.vmap(lambda key: jax.random.bits(key, (count,)))(keys))


def seeded(impl, seeds):
    return jax.vmap(lambda seed: jax.random.key(seed, impl=impl))(jnp.asarray(seeds, jnp.uint32))


def families(impl, count):
    """Keys that are neighbours in each of the ways there are."""
    key = jax.random.key(11, impl=impl)
    return {
        "seeds": seeded(impl, np.arange(count)),
        "folded": jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count, dtype=jnp.uint32)),
        "children": jax.random.split(key, count),
        "folded by seed": jax.vmap(lambda key: jax.random.fold_in(key, 1))(seeded(impl, np.arange(count))),
    }


@cache
def series(impl):
    """Words as they are drawn: many of one key, and the first of many keys."""
    long = words_of(seeded(impl, [3]), 2**18)[0]
    return {"one key": long} | {name: words_of(keys, 1)[:, 0] for name, keys in families(impl, 2**16).items()}


# --- statistics: each in standard deviations, the worst of all places ------------------------------------------------


def from_chance(p):
    """How far out a p-value is, on either side: a sum of squares that is too small is as bad as one too large."""
    return abs(stats.norm.ppf(np.clip(p, 1e-300, 1 - 1e-16)))


def unevenness(counts):
    """Of how often each of equally likely things was seen."""
    return from_chance(stats.chisquare(counts).pvalue)


def bits_in(words):
    """0 or 1, the 32 places last."""
    return (words[..., None] >> np.arange(32, dtype=np.uint32)) & 1


def imbalance(words):
    """Of ones and noughts in each of the 32 places."""
    bits = bits_in(words.ravel())
    return np.abs(bits.mean(0) - 0.5).max() * 2 * len(bits) ** 0.5


def bytes_are_uniform(impl):
    of = lambda words, place: np.bincount((words >> (8 * place)) & 255, minlength=256)  # noqa: E731
    return max(unevenness(of(words, place)) for words in series(impl).values() for place in range(4))


def bits_are_balanced(impl):
    return max(imbalance(words) for words in series(impl).values())


def places_are_independent(impl):
    """Any two of the 32 places of a word agree half of the time."""

    def worst(words):
        signs = 1.0 - 2.0 * bits_in(words[: 2**16]).astype(np.float32)
        return np.abs(signs.T @ signs - len(signs) * np.eye(32)).max() / len(signs) ** 0.5

    return max(worst(words) for words in series(impl).values())


def neighbours_are_independent(impl):
    """A word says nothing of those after it: neither its bits, nor its size."""

    def worst(words, lag):
        here, there = words[:-lag], words[lag:]
        sizes = np.corrcoef(here / 2**32, there / 2**32)[0, 1] * len(here) ** 0.5
        return max(imbalance(here ^ there), abs(sizes))

    return max(worst(words, lag) for words in series(impl).values() for lag in (1, 2, 4, 256))


def neighbouring_streams_are_independent(impl):
    """The words of a key say nothing of those in the same places of the next key."""

    def worst(keys):
        words = words_of(keys, 1024)
        here, there = words[:-1], words[1:]
        sizes = np.corrcoef(here.ravel() / 2**32, there.ravel() / 2**32)[0, 1] * here.size**0.5
        low_bytes = np.bincount(((here ^ there) & 255).ravel(), minlength=256)
        return max(imbalance(here ^ there), abs(sizes), unevenness(low_bytes))

    return max(worst(keys) for keys in families(impl, 128).values())


def a_flipped_bit_flips_half(impl):
    """Avalanche: whichever bit of a counter, a key, a seed or what is folded in is flipped, every bit of the result is
    flipped in half of the cases."""
    rng = np.random.default_rng(0)
    flips = np.uint32(1) << np.arange(32, dtype=np.uint32)
    count = 2**11
    bases = rng.integers(0, 2**32, (count, 1), np.uint32)
    both = np.concatenate([bases, bases ^ flips], axis=1)  # the base, and each of its flips

    words = words_of(seeded(impl, [5]), 2**16)[0]
    counters = np.arange(2**16)
    of_counter = max(imbalance(words ^ words[counters ^ (1 << place)]) for place in range(16))

    data = rng.integers(0, 2**32, (count, 1, 2), np.uint32)
    of_either = np.concatenate([np.stack([flips, 0 * flips], -1), np.stack([0 * flips, flips], -1)])  # 64 2
    keys = jax.random.wrap_key_data(np.concatenate([data, data ^ of_either], axis=1), impl=impl)
    drawn = np.asarray(jax.vmap(jax.vmap(lambda key: jax.random.bits(key, (2,))))(keys))[..., 1]
    of_key = max(imbalance(drawn[:, 0] ^ drawn[:, place]) for place in range(1, 65))

    def of(make):
        made = np.asarray(jax.random.key_data(jax.vmap(jax.vmap(make))(both)))  # count 33 2
        return max(imbalance(made[:, 0, part] ^ made[:, place, part]) for place in range(1, 33) for part in range(2))

    parent = jax.random.key(9, impl=impl)
    of_seed = of(lambda seed: jax.random.key(seed, impl=impl))
    of_folded = of(lambda data: jax.random.fold_in(parent, data))
    return max(of_counter, of_key, of_seed, of_folded)


def words_repeat_as_drawn_ones_do(impl):
    """Of a million words about 2^20 squared / 2^33 = 128 pairs are the same."""
    words = words_of(seeded(impl, [1]), 2**20)[0]
    repeats = len(words) - len(np.unique(words))
    return abs(repeats - 128) / 128**0.5


def floats_are_uniform(impl):
    def worst(key):
        drawn = np.asarray(jax.random.uniform(key, (2**16,)))
        assert (drawn >= 0).all()
        assert (drawn < 1).all()
        return from_chance(stats.kstest(drawn, "uniform").pvalue)

    return max(worst(jax.random.key(seed, impl=impl)) for seed in range(3))


BATTERY = (
    bytes_are_uniform,
    bits_are_balanced,
    places_are_independent,
    neighbours_are_independent,
    neighbouring_streams_are_independent,
    a_flipped_bit_flips_half,
    words_repeat_as_drawn_ones_do,
    floats_are_uniform,
)


@pytest.mark.parametrize("statistic", BATTERY)
def test_bits_are_like_drawn_ones_and_a_weak_generators_are_not(statistic):
    assert statistic(HASHED) < LIMIT
    assert max(statistic(impl) for impl in WEAK) > 2 * LIMIT  # the control


# --- keys ------------------------------------------------------------------------------------------------------------


def test_children_bits_and_folded_keys_never_meet():
    key = new_key(4)
    count = 2**12
    data = jax.random.key_data
    families = {
        "bits": jax.random.bits(key, (count, 2)),
        "children": data(jax.random.split(key, count)),
        "folded": data(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count, dtype=jnp.uint32))),
        "of the next seed": data(jax.random.split(new_key(5), count)),
        "grandchildren": data(jax.random.split(jax.random.split(key)[0], count)),
        "seeds": data(jax.vmap(new_key)(jnp.arange(count, dtype=jnp.uint32))),
    }
    rows = np.concatenate([np.asarray(rows) for rows in families.values()])
    assert len(np.unique(rows, axis=0)) == len(families) * count
    # Nor do they run alongside each other, shifted or not: words of two families agree in 2 x 2^12 places by chance never.
    for one, other in ((one, other) for one in families for other in families if one < other):
        here, there = np.ravel(families[one]), np.ravel(families[other])
        for shift in (0, 1, 2):
            assert (here[shift:] == there[: len(there) - shift]).sum() <= 1
            assert imbalance(here[shift:] ^ there[: len(there) - shift]) < LIMIT


def test_seeds_and_what_is_folded_in_count_to_the_last_bit():
    key = new_key(0)
    far = np.array([0, 1, 2**16, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1], np.uint32)
    for make in (new_key, lambda data: jax.random.fold_in(key, data)):
        made = np.asarray(jax.random.key_data(jax.vmap(make)(far)))
        assert len(np.unique(made, axis=0)) == len(far)


def test_bits_are_the_same_however_they_are_computed():
    keys = jax.random.split(new_key(0), 5)

    def drawn(key):
        one, two = jax.random.split(jax.random.fold_in(key, 3))
        whole = jax.random.bits(one, (4, 3), jnp.uint8), jax.random.randint(two, (2,), 0, 1000)
        return *whole, jax.random.uniform(two, (3,))

    apart = [drawn(key) for key in keys]
    for together in (jax.vmap(drawn)(keys), jax.jit(jax.vmap(drawn))(keys), jax.lax.map(drawn, keys)):
        for k, alone in enumerate(apart):
            jax.tree.map(lambda a, b, k=k: np.testing.assert_array_equal(a[k], b), together, alone)
    assert not np.array_equal(apart[0][2], apart[1][2])  # the control
    np.testing.assert_array_equal(jax.random.key_data(new_key(7)), jax.random.key_data(jax.jit(new_key)(7)))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_any_width_and_shape(width):
    with jax.enable_x64(width == 64):
        kind = jnp.dtype(f"uint{width}")
        for shape in ((), (0,), (7,), (3, 5), (2, 0, 3)):
            found = jax.random.bits(new_key(1), shape, kind)
            assert (found.shape, found.dtype) == (shape, kind)
        grid = np.asarray(jax.random.bits(new_key(1), (256, 257), kind))
        np.testing.assert_array_equal(grid.ravel(), jax.random.bits(new_key(1), (256 * 257,), kind))
    for place in range(width // 8):
        counts = np.bincount(((grid >> np.array(8 * place, kind)) & np.array(255, kind)).ravel().astype(int))
        assert unevenness(counts) < LIMIT
    flat = grid.ravel()
    ones = (flat[:, None] >> np.arange(width, dtype=kind)) & np.array(1, kind)
    between = (flat[1:, None] ^ flat[:-1, None]) >> np.arange(width, dtype=kind) & np.array(1, kind)
    for bits in (ones, between):
        assert np.abs(bits.mean(0) - 0.5).max() * 2 * len(bits) ** 0.5 < LIMIT


def test_usual_draws_have_their_moments():
    """A key goes wherever one of jax.random.key does."""
    key = new_key(2)
    normal = np.asarray(jax.random.normal(key, (2**16,)))
    assert from_chance(stats.kstest(normal, "norm").pvalue) < LIMIT
    order = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, 4))(jax.random.split(key, 2**13)))
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert unevenness(counts) < LIMIT
    thirds = np.bincount(np.asarray(jax.random.randint(key, (2**16,), 0, 3)))
    assert unevenness(thirds) < LIMIT
