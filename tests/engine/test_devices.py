"""Seeds on devices: any number on any number, and what is saved on one is loaded on another."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
from safetensors.numpy import load_file, save_file
import marlet
from marlet.engine.train import Training
from marlet.runs import checkpoint

folder, small = sys.argv[2], {small}
assert len(jax.devices()) == int(sys.argv[1])
for seeds in (1, 2, 3, 5):
    deep = seeds == 3
    training = Training(marlet.TwoStep(), marlet.vdn(**small) if deep else marlet.tabular_iql(envs=2), seeds=seeds, seed=7)
    axis = training._axis
    assert axis.turns * axis.together * axis.devices >= seeds
    training.start()
    training.advance(4)
    save_file(checkpoint.named(training.snapshot()), f"{{folder}}/{{sys.argv[1]}}-{{seeds}}-half")
    training.advance(4)
    assert len(training.collect()) == len(training.seeds) == training.evaluate(3).score.shape[0] == seeds
    save_file(checkpoint.named(training.snapshot()), f"{{folder}}/{{sys.argv[1]}}-{{seeds}}")
    if sys.argv[1] == "2":
        other = load_file(f"{{folder}}/1-{{seeds}}-half")
        training.restore(checkpoint.fit(other, training.saved_shapes, where="here"))
        back = checkpoint.named(training.snapshot())
        assert all(np.array_equal(back[name], other[name]) for name in other)
        training.advance(4)
        training.collect()
        save_file(checkpoint.named(training.snapshot()), f"{{folder}}/restored-{{seeds}}")
"""
SMALL = {"envs": 4, "length": 5, "hidden": (8,), "capacity": 100, "warmup": 40, "batch": 8, "epsilon_steps": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    for devices in ("1", "2"):
        argv = [sys.executable, "-c", PROGRAM.format(small=SMALL), devices, str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_a_seed_learns_the_same_wherever_it_is(folder, seeds):
    one, two = load_file(folder / f"1-{seeds}"), load_file(folder / f"2-{seeds}")
    restored = load_file(folder / f"restored-{seeds}")
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].shape[0] == seeds
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(one[name], restored[name], rtol=1e-3, atol=1e-4, err_msg=name)
    for s in range(1, seeds):  # the control: seeds differ
        assert any(not np.allclose(one[name][0], one[name][s]) for name in one if name.startswith(".learned"))
