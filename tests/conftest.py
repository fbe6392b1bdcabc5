"""Settings for every test."""

import functools
import gc
import os
from pathlib import Path

import pytest

# Most of the suite's time is compiling, and many tests compile the same programs: they share what was compiled, also
# between the processes of `pytest -n` and those that tests start. Read by JAX when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# Tracing makes many small objects that live on: looking for rubbish among them after every 700 takes its time.
gc.set_threshold(100_000)

ROUGHLY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""What XLA is told where compiling takes longer than running: leave optimising out, and the detour through MLIR."""


def compile_roughly(rough: bool) -> None:
    """Tell XLA so from now on, of every program, or of none."""
    import jax
    from jax._src import compiler  # options of single programs have a public door, those of all programs none

    plain = getattr(compiler.get_compile_options, "__wrapped__", compiler.get_compile_options)

    @functools.wraps(plain)
    def roughly(*args, **options):
        made = plain(*args, **options)
        made.env_option_overrides = [*ROUGHLY.items(), *made.env_option_overrides]
        return made

    compiler.get_compile_options = roughly if rough else plain
    jax.clear_caches()  # what was compiled in one way is not for tests of the other


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile for modules marked `rough` in a fraction of the time, into slower programs.

    Their tests ask what is computed. Those that ask for equal bits or for speed, and whole runs, get what users get.
    """
    import jax

    rough = item.get_closest_marker("rough") is not None
    if rough != jax.config.read("jax_disable_most_optimizations"):
        jax.config.update("jax_disable_most_optimizations", rough)
        compile_roughly(rough)
