"""Games written out as text that a person can follow, and kept, so that no change of a rule goes unseen."""

import os
from pathlib import Path

import jax
import numpy as np

from marlet.envs.base import Env

GOLDEN = Path(__file__).parent.parent / "golden"


def check_golden(name: str, env: Env, actions: list[list]) -> None:
    """Compare the game with `tests/golden/NAME.txt`; with MARLET_GOLDEN=1 in the environment, write that file."""
    text, path = played(env, actions), GOLDEN / f"{name}.txt"
    if os.environ.get("MARLET_GOLDEN") == "1":
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} has changed; if it should, write it with MARLET_GOLDEN=1"


def played(env: Env, actions: list[list]) -> str:
    """A whole game with keys from seed 0: the options, then each step, as text."""
    step = jax.jit(lambda state, action, key: env.step(state, action, key=key))
    state, said = jax.jit(lambda key: env.reset(key=key))(jax.random.key(0))
    parts = [f"{env}", f"== reset\n{written(env, state, said)}"]
    for t, action in enumerate(actions):
        state, said = step(
            state, np.array(action, np.float32 if env.spec.continuous else np.int32), jax.random.key(t + 1)
        )
        parts.append(f"== step {t + 1}, actions {action}\n{written(env, state, said)}")
    return "\n\n".join(parts) + "\n"


def written(env: Env, state, said) -> str:
    named = lambda path: jax.tree_util.keystr(path).lstrip(".")  # noqa: E731
    lines = [f"{named(path)}: {numbers(leaf)}" for path, leaf in jax.tree.leaves_with_path(state) if leaf.size]
    lines += [f"says {name}: {numbers(value)}" for name, value in vars(said).items() if name != "cost"]
    picture = env.render(jax.device_get(state))
    return "\n".join(lines + [picture] * isinstance(picture, str))


def numbers(array) -> str:
    array = np.asarray(array)
    array = array.astype(int) if array.dtype == bool else array
    return np.array2string(array, precision=4, suppress_small=True, max_line_width=110).replace("\n", "\n    ")
