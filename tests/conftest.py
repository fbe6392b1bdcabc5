"""Settings for every test."""

import os
from pathlib import Path

import pytest

# Most of the suite's time is compiling, and many tests compile the same programs: they share what was compiled, also
# between the processes of `pytest -n` and those that tests start. Read by JAX when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile for modules marked `rough` in about half the time, into slower programs.

    Their tests ask what is computed. Those that ask for equal bits or for speed, and whole runs, get what users get.
    """
    import jax

    rough = item.get_closest_marker("rough") is not None
    if rough != jax.config.read("jax_disable_most_optimizations"):
        jax.config.update("jax_disable_most_optimizations", rough)
        jax.clear_caches()  # what was compiled in one way is not for tests of the other
