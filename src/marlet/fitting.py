"""Brings an algorithm and an environment together, and says what to do where they or the memory do not fit."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from marlet.algorithms.base import Algorithm
from marlet.algorithms.sides import Sides
from marlet.bridges.resolve import Factory
from marlet.catalogue import accepts, algorithms_for, envs_of_teams, record_of
from marlet.engine.devices import one_device_per_core
from marlet.engine.host import STEP_TIMEOUT, HostEnv
from marlet.engine.host_train import HostTraining
from marlet.engine.train import Trainer, Training
from marlet.envs.base import Env
from marlet.errors import MarletError, MemoryFault
from marlet.options import LARGEST
from marlet.runs import experiment
from marlet.testing import check_declared
from marlet.types import Spec

SIZES = ("batch", "capacity", "envs", "length", "hidden", "memory")
"""Options of algorithms that decide how much memory training takes."""


def training_of(
    env: Env | Factory,
    algorithm: Algorithm,
    plan: experiment.Plan,
    workers: int | None,
    step_timeout: float = STEP_TIMEOUT,
) -> Trainer:
    """The program that trains, compiled or with the environment on the host.

    Raises:
        EnvironmentFault: if an environment from outside breaks the contract, as far as can be seen without playing.
        MarletError: if the algorithm does not fit the environment, with the names of those that do.
    """
    if isinstance(env, Factory):
        with HostEnv(env, 1, workers=0) as probe:
            spec = probe.spec
    else:
        if not type(env).__module__.startswith("marlet."):  # Marlet's own are held to it by the tests
            check_declared(env)
        spec = env.spec
    try:
        algorithm.check(spec)
    except MarletError as misfit:
        raise MarletError(f"{misfit} {_cure(env, algorithm, spec)}") from None
    each = algorithm.envs * algorithm.length
    if plan.steps > LARGEST * each:
        raise MarletError(
            f"steps is {plan.steps}, but must be at most {LARGEST * each}: rounds of learning are counted in 32 bits, and "
            f"each takes {each} steps here. Use fewer steps, or more envs or a greater length."
        )
    one_device_per_core()
    if isinstance(env, Factory):
        if not step_timeout > 0:
            raise MarletError(f"step_timeout is {step_timeout}, but must be more than 0 seconds.")
        return HostTraining(env, algorithm, seed=plan.seed, seeds=plan.seeds, workers=workers, timeout=step_timeout)
    if workers is not None:
        raise MarletError(
            f"workers is {workers}, but {type(env).__name__} is compiled and steps in no process of its own: leave it out."
        )
    return Training(env, algorithm, seed=plan.seed, seeds=plan.seeds)


def _cure(env: Env | Factory, algorithm: Algorithm, spec: Spec) -> str:
    """What to do where an algorithm does not fit an environment: others that do, or another option."""
    if isinstance(algorithm, Sides):
        if len(set(spec.teams)) == len(algorithm.sides):
            return "Choose another algorithm or run for that side."
        known = ", ".join(envs_of_teams(len(algorithm.sides))) or "none of Marlet's own"
        return f"Leave --versus out, or name an environment of {len(algorithm.sides)} teams: {known}."
    cure = f"Fit for this environment: {', '.join(algorithms_for(spec)) or 'none'}."
    options = env.options if isinstance(env, Factory) else record_of(env)
    for name in ("continuous", "continuous_actions"):
        if options.get(name) is True and accepts(algorithm, dataclasses.replace(spec, continuous=False)):
            cure += f" Or let it have discrete actions: --no-env.{name}"
    return cure


@contextmanager
def within_memory(algorithm: Algorithm) -> Iterator[None]:
    """Tell in one sentence that memory was too small, and which options make it enough.

    Raises:
        MemoryFault: in place of JAX's own error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as cause:
        if "RESOURCE_EXHAUSTED" not in str(cause):
            raise
        sizes = [field.name for field in dataclasses.fields(algorithm) if field.name in SIZES]
        raise MemoryFault(
            f"Memory is too small for this training: make one of these smaller: {', '.join(sizes)}; or seeds, or episodes."
        ) from cause
