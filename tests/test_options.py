"""Options set from Python: what is of another type or out of range is refused in one sentence."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marlet
from marlet.errors import MarletError
from marlet.options import check_options, option


@dataclass(frozen=True)
class Holder:
    whole: int = option(1, "how many", low=0)
    number: float = option(1.0, "seconds")
    switch: bool = option(True, "whether")
    text: str = option("a", "which", choices=("a", "b"))
    sizes: tuple[int, ...] = option((1, 2), "units", low=1)
    pair: tuple[int, float] = option((1, 2.0), "a place")
    rows: tuple[tuple[float, ...], ...] = option(((1.0,),), "payoffs")
    maybe: int | None = option(None, "how many, if any")

    def __post_init__(self):
        check_options(self)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("whole", "x", "a whole number (how many)"),
        ("whole", 1.0, "a whole number"),
        ("whole", True, "a whole number"),
        ("number", "1", "a number (seconds)"),
        ("number", False, "a number"),
        ("number", None, "a number"),
        ("number", float("inf"), "finite"),
        ("number", float("nan"), "finite"),
        ("switch", 1, "True or False"),
        ("switch", "false", "True or False"),
        ("text", 3, "text"),
        ("text", "c", "one of a, b"),
        ("sizes", 64, "a tuple: (a whole number, ...)"),
        ("sizes", [64], "a tuple"),
        ("sizes", (64, "x"), "a tuple"),
        ("sizes", (64, 0), "at least 1"),
        ("pair", (1, 2, 3), "a tuple: (a whole number, a number)"),
        ("rows", ((1, "x"),), "a tuple"),
        ("maybe", 1.5, "a whole number or None"),
        ("whole", -1, "at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(name, value, wanted):
    with pytest.raises(MarletError, match=re.escape(wanted)) as fault:
        Holder(**{name: value})
    assert str(fault.value).startswith(f"Holder: {name} is ")
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "values",
    [
        {"number": 1, "pair": (1, 2), "rows": ((1, 2), (3, 4)), "maybe": 3, "sizes": ()},
        {"whole": np.int64(3), "number": np.float32(2), "switch": np.bool_(True)},
        {"number": jnp.ones(())},
    ],
)
def test_what_fits_passes(values):
    Holder(**values)


def test_traced_values_pass():
    assert jax.jit(lambda x: Holder(number=x).number * 2)(3.0) == 6.0


def test_an_algorithm_and_a_part_are_checked():
    with pytest.raises(MarletError, match="QLearning: learning_rate is 'x', but must be a number"):
        marlet.qmix(learning_rate="x")
    with pytest.raises(MarletError, match="mixer is 'sum', but must be a Mixer"):
        marlet.qmix(mixer="sum")
    with pytest.raises(MarletError, match=r"agents is 2\.5, but must be a whole number"):
        marlet.Spread(agents=2.5)
