"""What devices that share one run's environments have to tell each other: the same sums, by one message a time.

Everywhere `axis` is the name of the axis of devices, or None where one device has all environments: then nothing is told.
"""

from typing import TypeVar

import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from marlet.types import Key

Tree = TypeVar("Tree", bound=PyTree[Array])


def averaged(tree: Tree, axis: str | None) -> Tree:
    """The mean over the devices, leaf by leaf. It travels as one flat array: each message costs a rendezvous."""
    if axis is None:
        return tree
    flat, shape = ravel_pytree(tree)
    return shape(jax.lax.pmean(flat, axis))


def apart(key: Key, axis: str | None) -> Key:
    """A key that is another one on each device."""
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))


def own_share(count: int, axis: str | None) -> int:
    """How many of `count` are this device's."""
    return count if axis is None else count // jax.lax.axis_size(axis)
