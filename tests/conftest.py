"""Settings for every test."""

import os
from pathlib import Path

# Most of the suite's time is compiling, and many tests compile the same programs: they share what was compiled, also
# between the processes of `pytest -n` and those that tests start. Read by JAX when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
