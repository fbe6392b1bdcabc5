"""What can be told of an environment without playing: its spec, its programs, and its picture."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marlet.envs.base import Env, State
from marlet.errors import EnvironmentFault
from marlet.testing.breach import expect, fields
from marlet.types import Spec, Step


def check_spec(env: Env) -> None:
    """Every field of the spec is possible, and all of them fit the number of agents."""
    spec = answered(env, "spec", lambda: env.spec)
    expect(
        env,
        isinstance(spec, Spec),
        f"spec is a {type(spec).__name__}, but must be a marlet.types.Spec",
        "Return Spec(num_agents=..., num_actions=..., obs_shape=..., state_size=...) from the property `spec`.",
    )
    for name, low in (("num_agents", 1), ("num_actions", 1), ("state_size", 1)):
        value = getattr(spec, name)
        expect(
            env,
            whole(value) and value >= low,
            f"spec.{name} is {value!r}, but must be a whole number of at least {low}",
            "Correct it in `spec`.",
        )
    expect(
        env,
        isinstance(spec.obs_shape, tuple)
        and len(spec.obs_shape) == 1
        and all(whole(k) and k > 0 for k in spec.obs_shape),
        f"spec.obs_shape is {spec.obs_shape!r}, but must be (d,) with d features of at least 1",
        "Flatten observations to one axis.",
    )
    for name in ("kinds", "teams", "names"):
        value = getattr(spec, name)
        expect(
            env,
            len(value) == spec.num_agents,
            f"spec.{name} has {len(value)} entries, but there are {spec.num_agents} agents",
            f"Give one entry for each agent, or leave {name} out.",
        )
    expect(
        env,
        all(whole(k) and k >= 0 for k in spec.kinds + spec.teams),
        f"spec.kinds is {spec.kinds!r} and spec.teams is {spec.teams!r}, but both must hold whole numbers from 0",
        "Number kinds and teams 0, 1, 2, ...",
    )
    expect(
        env,
        len(set(spec.names)) == spec.num_agents and all(isinstance(name, str) for name in spec.names),
        f"spec.names is {spec.names!r}, but every agent needs a name of its own",
        "Number the names of agents that are alike.",
    )
    expect(
        env,
        spec.horizon is None or (whole(spec.horizon) and spec.horizon >= 1),
        f"spec.horizon is {spec.horizon!r}, but must be None or a whole number of at least 1",
        "Give the number of steps after which an episode ends at the latest.",
    )
    expect(
        env,
        spec.mortal or spec.horizon is not None,
        "spec.mortal is False, but spec.horizon is None: nothing would ever end an episode",
        "Give the number of steps that every episode lasts.",
    )
    expect(
        env,
        not spec.levels or (len(spec.levels) == spec.obs_shape[0] and all(whole(k) and k >= 1 for k in spec.levels)),
        f"spec.levels is {spec.levels!r}, but must be empty or give a count of at least 1 for each of the "
        f"{spec.obs_shape[0]} observed features",
        "Leave levels out where observations cannot be counted.",
    )


def answered(env: Env, name: str, ask: Callable[[], Any]) -> Any:
    """What the environment's own code gives outside compiled programs."""
    try:
        return ask()
    except Exception as error:
        raise EnvironmentFault(
            f"{type(env).__name__}: {name} failed with {type(error).__name__}: {first_line(error)}. Add --debug to see where."
        ) from error


def whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_traces(env: Env) -> None:
    """`reset` and `step` compile, one copy and many, and speak in the same arrays."""
    state, opening = traced(env, "reset", lambda key: env.reset(key=key), jax.random.key(0))
    action = any_action(env.spec)
    after, following = traced(env, "step", lambda s, a, k: env.step(s, a, key=k), state, action, jax.random.key(0))
    check_shapes(env, "reset", opening)
    check_shapes(env, "step", following)
    check_structure(env, state, after)
    keys = jax.random.split(jax.random.key(0), 3)
    states, _ = traced(env, "reset under jax.vmap", jax.vmap(lambda key: env.reset(key=key)), keys)
    actions = jnp.stack([action] * 3)
    traced(env, "step under jax.vmap", jax.vmap(lambda s, a, k: env.step(s, a, key=k)), states, actions, keys)


def traced(env: Env, name: str, function: Callable, *arguments: Any) -> tuple[Any, Step]:
    """The shapes and dtypes that `function` returns: (state, step)."""
    try:
        result = jax.eval_shape(function, *arguments)
    except jax.errors.ConcretizationTypeError as error:
        raise EnvironmentFault(
            f"{type(env).__name__}: {name} decides in Python on a value that is only known while it runs "
            f"({first_line(error)}). Use jnp.where or jax.lax.cond instead of `if`, and jnp instead of np."
        ) from error
    except Exception as error:
        raise EnvironmentFault(
            f"{type(env).__name__}: {name} cannot be compiled by JAX ({type(error).__name__}: {first_line(error)}). "
            "It must be made of JAX operations on arrays, and return (state, Step)."
        ) from error
    expect(
        env,
        isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Step),
        f"{name} returns {type(result).__name__}, but must return (state, Step)",
        "Build the Step with make_step.",
    )
    return result


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


def any_action(spec: Spec) -> jax.Array:
    """The first action of everyone."""
    if spec.continuous:
        return jnp.zeros((spec.num_agents, spec.num_actions), jnp.float32)
    return jnp.zeros(spec.num_agents, jnp.int32)


def check_shapes(env: Env, name: str, step: Step) -> None:
    """Every array of a step has the spec's shape, and its own dtype."""
    n, a, spec = env.spec.num_agents, env.spec.num_actions, env.spec
    for field, shape, dtype in (
        ("obs", (n, *spec.obs_shape), jnp.float32),
        ("state", (spec.state_size,), jnp.float32),
        ("available", (n, a), jnp.bool_),
        ("reward", (n,), jnp.float32),
        ("alive", (n,), jnp.bool_),
        ("truncated", (), jnp.bool_),
        ("cost", (n,), jnp.float32),
    ):
        array = getattr(step, field)
        expect(
            env,
            array.shape == shape,
            f"{field} after {name} has shape {array.shape}, but the spec says {shape}",
            "Correct the spec or the array; row i of an array is about agent i.",
        )
        expect(
            env,
            array.dtype == dtype,
            f"{field} after {name} is {array.dtype}, but must be {jnp.dtype(dtype).name}",
            f"Convert it with .astype(jnp.{jnp.dtype(dtype).name}), or build the Step with make_step.",
        )


def check_structure(env: Env, before: State, after: State) -> None:
    """The state after a step has the arrays, shapes and dtypes of the state after a reset, so nothing recompiles."""
    expect(
        env,
        jax.tree.structure(before) == jax.tree.structure(after),
        f"the state after step is a {jax.tree.structure(after)}, but after reset a {jax.tree.structure(before)}",
        "Return the same kind of tree from both, with nothing but arrays changing.",
    )
    for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        name = f"state{jax.tree_util.keystr(path)}"
        expect(
            env,
            old.shape == new.shape and old.dtype == new.dtype,
            f"{name} is {old.dtype}{list(old.shape)} after reset, but {new.dtype}{list(new.shape)} after step",
            "Keep shape and dtype, or the learner is compiled anew at every step.",
        )
        expect(
            env,
            old.weak_type == new.weak_type,
            f"{name} is a plain Python number after {'reset' if old.weak_type else 'step'}, but an array of fixed "
            f"dtype after {'step' if old.weak_type else 'reset'}",
            f"Write jnp.asarray(value, jnp.{old.dtype}) in both, or the learner is compiled twice.",
        )


def check_purity(env: Env, seed: int) -> None:
    """Traced twice, `reset` and `step` are the same programs, or programs that say the same of the same key."""
    key, action = jax.random.key(seed), any_action(env.spec)

    def twice(program: Callable, *arguments: Any) -> list[Any]:
        # A fresh function each time, since jax.jit remembers what it has traced.
        return [jax.jit(lambda *given: program(*given)).lower(*arguments) for _ in range(2)]

    def check(name: str, lowered: list[Any], *arguments: Any) -> None:
        one, two = (program.compile()(*arguments)[1] for program in lowered)
        for field, first, second in fields(one, two):
            expect(
                env,
                np.array_equal(first, second, equal_nan=True),
                f"{name} with one and the same key said two different things about {field}",
                "Draw only from the key, never from np.random or random, and keep nothing between calls but the state.",
            )

    resets = twice(lambda k: env.reset(key=k), key)
    steps = twice(lambda s, a, k: env.step(s, a, key=k), resets[0].out_info[0], action, key)
    if resets[0].as_text() != resets[1].as_text():
        check("reset", resets, key)
    if steps[0].as_text() != steps[1].as_text():
        check("step", steps, resets[0].compile()(key)[0], action, key)


def check_render(env: Env, reset: Callable, seed: int) -> None:
    """The picture is text, or an RGB frame of uint8; drawing nothing is allowed."""
    if type(env).render is Env.render:
        return
    state = jax.device_get(reset(jax.random.key(seed))[0])
    picture = answered(env, "render", lambda: env.render(state))
    expect(
        env,
        isinstance(picture, str)
        or (
            isinstance(picture, np.ndarray)
            and picture.dtype == np.uint8
            and picture.ndim == 3
            and picture.shape[2] == 3
        ),
        f"render returns {describe(picture)}, but must return text or a uint8 frame of shape (height, width, 3)",
        "Convert the frame with np.asarray(frame, np.uint8).",
    )


def describe(thing: Any) -> str:
    return f"{thing.dtype}{list(thing.shape)}" if isinstance(thing, np.ndarray) else f"a {type(thing).__name__}"
