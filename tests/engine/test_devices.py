"""Seeds on devices: any number on any number, one seed shared by several, and what is saved on one is loaded on another."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import ROUGHLY
from marlet.engine import rollout
from marlet.engine.devices import WIDTH, Placement, compiler_options, whole
from marlet.envs.spread import Spread
from marlet.types import computed_once, on_cpu

SMALL = {"envs": 4, "length": 5, "hidden": (8,), "capacity": 100, "warmup": 40, "batch": 8, "epsilon_steps": 40}

SEEDS = f"""
import sys
from unittest import mock
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from safetensors.numpy import load_file, save_file
import marlet
from marlet.engine.train import Training
from marlet.runs import checkpoint

compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, seconds, **_: compiled.append(name))

def programs():
    return compiled.count("/jax/core/compile/backend_compile_duration")

small, folder, both = {SMALL}, sys.argv[1], jax.devices()
assert len(both) == 2

def train(count, seeds, deep):
    name = f"{{seeds}}-deep" if deep else f"{{seeds}}"
    algorithm = marlet.vdn(**small) if deep else marlet.tabular_iql(envs=2)
    training = Training(marlet.TwoStep(), algorithm, seeds=seeds, seed=7)
    place = training._placement
    assert place.turns * place.together * place.devices >= seeds
    assert place.shares == (2 if name == "1-deep" and count == 2 else 1)
    training.start()
    training.advance(4)
    used = set().union(*(leaf.devices() for leaf in jax.tree.leaves(training.progress)))
    assert used == set(both[:place.devices * place.shares]) and len(used) <= count
    save_file(checkpoint.named(training.snapshot()), f"{{folder}}/{{count}}-{{name}}-half")
    training.advance(4)
    assert len(training.collect()) == len(training.seeds) == training.evaluate(3).score.shape[0] == seeds
    save_file(checkpoint.named(training.snapshot()), f"{{folder}}/{{count}}-{{name}}")
    if count == 2:
        other = load_file(f"{{folder}}/1-{{name}}-half")
        known = programs()
        assert known > 0
        training.restore(checkpoint.fit(other, training.saved_shapes, where="here"))
        back = checkpoint.named(training.snapshot())
        assert all(np.array_equal(back[name], other[name]) for name in other)
        training.advance(4)
        assert programs() == known, "what was restored goes on in the programs that are there"
        training.collect()
        save_file(checkpoint.named(training.snapshot()), f"{{folder}}/restored-{{name}}")
    return training

for count in (1, 2):
    with mock.patch.object(jax, "devices", lambda: both[:count]):
        for seeds, deep in ((1, False), (2, False), (3, True), (5, False), (1, True)):
            training = train(count, seeds, deep)

def on_each(leaf):
    return [np.asarray(shard.data) for shard in leaf.addressable_shards]

now = training.progress[0]  # the last one's environments are shared by both
for leaf in jax.tree.leaves((now.learned.online, now.learned.target, now.learned.optimiser, now.sums)):
    one, two = on_each(leaf)
    assert one.shape == leaf.shape and np.array_equal(one, two)
one, two = on_each(now.learned.replay.deeds.action)
assert one.shape == two.shape == (1, *one.shape[1:2], 2, 2) and not np.array_equal(one, two)
assert now.learned.updates == 7 and now.learned.steps == 8 * 4 * 5
assert training.evaluate(3).score.shape == (1, 3, 2)
"""
ROUGH = {"XLA_FLAGS": " ".join(f"--{name}={int(value)}" for name, value in ROUGHLY.items())}
"""Less time to compile: what is compared is equal but for rounding anyway."""

SHARED = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
import marlet
from functools import partial
from jax.sharding import AxisType, PartitionSpec as P
from marlet.engine.rollout import Tally, opening, rollout
from marlet.parts.shards import averaged
from marlet.types import Rollout

env, key = marlet.Spread(agents=2, steps=4), jax.random.key(0)
mesh = jax.make_mesh((2,), ("shares",), axis_types=(AxisType.Auto,))
actors = marlet.ippo(envs=4, length=3, hidden=(8,), epochs=1, minibatches=1)
values = marlet.vdn(envs=4, length=3, hidden=(8,))

@jax.jit
def begun():
    learned = actors.init(env.spec, key=key), values.init(env.spec, key=key)
    world = opening(env, actors, learned[0], 4, key=key)
    run = jax.jit(lambda world: rollout(env, actors, learned[0], world, Tally.empty(4, 2), 3, key=key))
    whole = Rollout(run(run(world)[0])[2].transitions, values.blank(learned[1], 4))
    return learned, whole, learned[1].replay.add(whole, env.spec).sample(8, key=key)

learned, whole, experience = begun()
assert whole.transitions.next.truncated.any() and (experience.cuts.at < 3).any()

def distance(halves, whole):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), halves, whole)))

def check(function, learned, parted, axes):
    '''On two devices, each with a half along `axes`, it does what it does on one with the whole.'''
    specs = jax.tree.map(lambda axis: P(*(None,) * axis, "shares"), axes)
    one = lambda learned, part: jax.tree.map(lambda leaf: leaf[None], function(learned, part, "shares"))
    shared = jax.shard_map(one, mesh=mesh, in_specs=(P(), specs), out_specs=P("shares"), check_vma=False)
    shared, expected = jax.jit(shared), jax.jit(partial(function, axis=None))(learned, parted)
    assert distance(shared(learned, parted), expected) < 1e-5
    half = lambda leaf, axis: jnp.concatenate([jnp.split(leaf, 2, axis)[0]] * 2, axis)
    moved = distance(shared(learned, jax.tree.map(half, parted, axes)), expected)
    assert moved > 1e-3, moved  # the control: a half alone teaches something else

def update(learned, part, axis):
    transitions, memory = part
    after, metrics = actors.update(learned, Rollout(transitions, (memory, memory), axis), key=key)
    return (after.actor, after.critic, after.statistics, after.steps, after.actor_optimiser), metrics

def gradient(learned, experience, axis):
    return averaged(jax.grad(values._loss, has_aux=True)(learned.online, learned.target, experience), axis)

check(update, learned[0], (whole.transitions, whole.memory), (jax.tree.map(lambda _: 1, whole.transitions), 0))
check(gradient, learned[1], experience, type(experience)(**(vars(jax.tree.map(lambda _: 1, experience)) | {"memory": 0})))
"""


def ran(*argv):
    done = subprocess.run([sys.executable, "-c", *argv], env=os.environ | ROUGH, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    ran(SEEDS, str(folder))
    return folder


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_a_seed_learns_the_same_wherever_it_is(folder, seeds):
    name = "3-deep" if seeds == 3 else f"{seeds}"
    one, two = load_file(folder / f"1-{name}"), load_file(folder / f"2-{name}")
    restored = load_file(folder / f"restored-{name}")
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].shape[0] == seeds
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(one[name], restored[name], rtol=1e-3, atol=1e-4, err_msg=name)
    for s in range(1, seeds):  # the control: seeds differ
        assert any(not np.allclose(one[name][0], one[name][s]) for name in one if name.startswith(".learned"))


def test_a_seed_that_is_shared_is_saved_as_one_that_is_not(folder):
    one, two, restored = (load_file(folder / name) for name in ("1-1-deep", "2-1-deep", "restored-1-deep"))
    for other in (two, restored):
        assert {name: leaf.shape for name, leaf in one.items()} == {name: leaf.shape for name, leaf in other.items()}
        assert all(np.isfinite(leaf).all() for leaf in other.values() if leaf.dtype.kind == "f")
        for name in (".iteration", ".learned.updates", ".learned.steps"):
            np.testing.assert_array_equal(one[name], other[name])


def test_two_devices_learn_from_their_halves_what_one_learns_from_the_whole():
    ran(SHARED)


@pytest.mark.parametrize("size", [2, 1000])
def test_what_is_to_be_computed_once_is_parted_from_what_needs_it(size):
    """Also in a loop as small as those of which XLA makes one kernel."""

    def walk(start):
        def step(place, _):
            place = computed_once(jnp.sin(place) + place)
            return jnp.cos(place), place + 1

        return jax.lax.scan(step, start, length=7)

    place, start = Placement(1, 8 * size), jnp.linspace(0, 1, size)
    here = place.place(np.asarray(start)[None], -1)
    spread = place.spread(walk, -1, whole(jax.eval_shape(walk, start)))
    found, expected = place.taken(spread(here)), jax.jit(walk)(start)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[0], other, rtol=1e-6)
    barriers = lambda lowered: lowered.compile().as_text().count(" opt-barrier(")  # noqa: E731
    assert barriers(spread._lazy.lower(here[0], ())) == on_cpu()
    assert barriers(jax.jit(walk).lower(start)) == 0  # the control: XLA by itself keeps none


def test_the_width_of_vectors_is_the_users_where_flags_name_it(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    ours = compiler_options()
    assert ours[WIDTH] == "512"
    monkeypatch.setenv("XLA_FLAGS", f"--{WIDTH}=256 --xla_disable_hlo_passes=cse")
    assert ours.items() - compiler_options().items() == {(WIDTH, "512")}  # barriers are kept all the same


def test_what_was_measured_on_a_cpu_only_is_done_on_a_cpu_only(monkeypatch):
    assert compiler_options()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options() is None
    value = jnp.ones(3)
    assert computed_once(value) is value
    env = Spread()
    _, step = env.reset(key=jax.random.key(0))
    assert rollout._batch_innermost(step) is step
