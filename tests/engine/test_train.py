"""The training loop: one trace, any chunking, faults within a chunk, and numbers that belong to what is saved."""

import threading
from functools import partial

import jax
import numpy as np
import pytest
from toys import TRACES, Counting, Ledger

import marlet
from marlet.catalogue import make_algorithm
from marlet.engine.host_train import HostTraining
from marlet.engine.stateless import read_by
from marlet.engine.train import Training
from marlet.errors import EnvironmentFault, MarletError, NonFinite
from marlet.runs import checkpoint
from marlet.runs.directory import Run

SMALL = {"envs": 4, "length": 5, "hidden": (8,), "capacity": 200, "warmup": 40, "batch": 8, "epsilon_steps": 100}


def leaves(training):
    return checkpoint.named(training.snapshot())


def equal(one, two):
    assert one.keys() == two.keys()
    return all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)


# Compiling


@pytest.mark.rough
@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_is_traced_again_in_steady_state(seeds):
    training = Training(Ledger(), Counting(envs=3, length=4), seeds=seeds)
    training.start()
    training.advance(1)
    training.evaluate(4)
    training.collect()
    training.advance(1)
    count = len(TRACES)
    assert count
    for iterations in (1, 7, 2):
        training.advance(iterations)
        training.collect()
        training.evaluate(4)
        training.snapshot()
        training.restore(training.snapshot())
    training.advance(3)
    assert TRACES[count:] == []
    training.evaluate(5)  # the control: another number of episodes is another program
    assert TRACES[count:]


@pytest.mark.rough
def test_a_host_training_traces_once_too():
    from marlet.bridges.resolve import Factory

    training = HostTraining(Factory("host_worlds", "Dice"), Counting(envs=2, length=3), workers=0)
    training.start()
    training.advance(2)
    training.evaluate(2)
    count = len(TRACES)
    training.advance(3)
    training.evaluate(2)
    training.restore(training.snapshot())
    training.advance(2)
    assert TRACES[count:] == []


# Equal results


def test_a_state_that_is_not_read_is_kept_nowhere_and_changes_nothing(monkeypatch):
    def trained():
        training = Training(marlet.Spread(agents=2), make_algorithm("vdn", SMALL))
        training.start()
        training.advance(12)
        return training, leaves(training)

    training, lean = trained()
    assert training.spec.state_size == 0
    monkeypatch.setattr("marlet.engine.train.read_by", lambda algorithm, env: env)
    _, full = trained()
    apart = {name for name in full if lean[name].shape != full[name].shape}
    assert apart
    assert all(name.endswith("state") and lean[name].size == 0 for name in apart)
    assert equal({name: lean[name] for name in lean.keys() - apart}, {name: full[name] for name in full.keys() - apart})


def test_a_state_that_is_read_is_kept():
    env = marlet.Spread(agents=2)
    assert read_by(make_algorithm("qmix", SMALL), env) is env
    assert env.spec.state_size > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Training(Ledger(), Counting(envs=3, length=4), seeds=2),
        lambda: Training(marlet.Spread(agents=2), marlet.qmix(memory=4, **SMALL), seed=3),
        lambda: Training(marlet.TwoStep(), marlet.tabular_iql(), seeds=3),
    ],
)
def test_chunking_evaluating_and_restoring_change_no_bit(make):
    training, other = make(), make()
    training.start()
    training.advance(20)
    whole = leaves(training)
    training.advance(1)
    assert not equal(whole, leaves(training))  # the control
    training.start()
    for iterations in (1, 6, 2, 11):
        training.advance(iterations)
        training.evaluate(3)
        if training.iteration == 9:
            other.restore(training.snapshot())
    assert equal(whole, leaves(training))
    other.advance(11)
    assert equal(whole, leaves(other))


@pytest.mark.rough
def test_a_seed_alone_learns_what_it_learns_in_a_group():
    group = Training(marlet.TwoStep(), marlet.vdn(**SMALL), seed=5, seeds=3)
    alone = Training(marlet.TwoStep(), marlet.vdn(**SMALL), seed=6)
    for training in (group, alone):
        training.start()
        training.advance(20)
    many, one = (jax.tree.leaves(training.snapshot().learned.online) for training in (group, alone))
    distances = [
        max(np.abs(ours[s] - theirs[0]).max() for ours, theirs in zip(many, one, strict=True)) for s in (0, 1, 2)
    ]
    assert distances[1] < 1e-4
    assert min(distances[0], distances[2]) > 1e-2  # the control: another seed is another learner


@pytest.mark.rough
def test_compiled_is_not_compiled():
    one, two = (Training(Ledger(), Counting(envs=2, length=3)) for _ in range(2))
    one.start()
    two.start()
    one.advance(3)
    with jax.disable_jit():
        begun = jax.tree.map(lambda leaf: leaf[0], two.progress[0])
        from marlet.engine.train import _advance, _learn

        plain = _advance(partial(_learn, two.env, two.algorithm, None), True, begun, 3)
    for ours, theirs in zip(jax.tree.leaves(one.snapshot()), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-6)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_learning_rule_is_traced_once_and_few_programs_are_compiled(seeds, caplog):
    """What starting takes, when the programs themselves are in the cache."""
    updates = []

    class Noted(Counting):
        def update(self, learned, rollout, *, key):
            updates.append(key)
            return super().update(learned, rollout, key=key)

    with jax.log_compiles(), caplog.at_level("WARNING"):
        training = Training(Ledger(), Noted(envs=2, length=3), seeds=seeds)
        training.start()
        training.advance(2)
        training.evaluate(4)
        training.collect()
        assert training.table() is None
        training.advance(3)
    assert len(updates) == 1
    programs = [record for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
    assert 3 <= len(programs) <= 8


@pytest.mark.rough
def test_what_trains_is_compiled_beside_the_beginning(caplog):
    jax.config.update("jax_log_compiles", True)  # of all threads
    try:
        training = Training(Ledger(), Counting(envs=2, length=5))
        training.start()
        training.advance(1)
    finally:
        jax.config.update("jax_log_compiles", False)
    programs = [record.thread for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
    assert len([thread for thread in programs if thread != threading.get_ident()]) == 1
    assert threading.get_ident() in programs


# Faults


@pytest.mark.rough
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("reward", "a reward that is not finite"),
        ("obs", "an observation that is not finite"),
        ("mask", "no legal action"),
        ("cost", "a cost that is not finite"),
        ("state", "a state that is not finite"),
    ],
)
def test_a_broken_environment_is_named_within_the_chunk(what, told, tmp_path):
    at = 1233 if what == "mask" else 1234  # a closed mask is a fault of the step that has to be taken next
    env, algorithm = Ledger(longest=0, poisoned=what), Counting(envs=8, length=25, at=at, env=7, agent=2)
    training = Training(env, algorithm)
    training.start()
    training.advance(49)
    with pytest.raises(EnvironmentFault) as fault:
        training.advance(30)
    assert fault.value.exit_code == 3
    whose = "" if what == "state" else "agent 'agent_2', "
    assert f"environment 7, {whose}after 1234 steps" in str(fault.value)
    assert told in str(fault.value)
    with pytest.raises(EnvironmentFault):
        marlet.train(
            env,
            algorithm,
            steps=8 * 25 * 80,
            save_every=0,
            episodes=1,
            evaluations=1,
            out=tmp_path,
            name="x",
            quiet=True,
        )
    kept_is_finite(tmp_path / "x", below=50)


def kept_is_finite(path, below):
    for folder in checkpoint.saved(path / "checkpoints"):
        found = checkpoint.read(folder)
        assert found.notes["iteration"] < below
        for name, leaf in found.arrays.items():
            assert leaf.dtype.kind != "f" or np.isfinite(leaf).all(), name


@pytest.mark.rough
def test_an_opening_that_is_not_finite_is_seen():
    class Blind(Ledger):
        def reset(self, *, key):
            state, step = super().reset(key=key)
            return state, step.__class__(**{**vars(step), "obs": step.obs * float("nan")})

    training = Training(Blind(), Counting(envs=2, length=3))
    training.start()
    with pytest.raises(EnvironmentFault, match=r"environment 0, agent 'agent_0', after 0 steps"):
        training.advance(1)


@pytest.mark.rough
def test_what_is_not_finite_is_never_saved(tmp_path):
    env, algorithm = Ledger(), Counting(envs=2, length=5, lasting=30)
    training = Training(env, algorithm)
    training.start()
    training.advance(29)
    with pytest.raises(NonFinite) as fault:
        training.advance(4)
    assert fault.value.exit_code == 4
    assert "smaller learning_rate" in str(fault.value)
    with pytest.raises(NonFinite):
        marlet.train(
            env, algorithm, steps=10 * 60, save_every=0, episodes=1, evaluations=1, out=tmp_path, name="x", quiet=True
        )
    kept_is_finite(tmp_path / "x", below=30)


@pytest.mark.rough
def test_a_fault_that_has_not_happened_is_not_told():
    training = Training(Ledger(longest=0, poisoned="reward"), Counting(envs=8, length=25, at=-1))
    training.start()
    training.advance(10)


# The number belongs to what is saved


def test_the_last_evaluation_is_of_what_is_saved(tmp_path):
    run = marlet.train(
        "spread", marlet.iql(**SMALL), steps=400, evaluations=2, episodes=8, out=tmp_path, name="x", quiet=True, seed=3
    )
    recorded = Run(run.path).metrics()["return"][-1]
    # Of an agent first, then of the episodes, as it is recorded: another order of summing rounds otherwise.
    again = marlet.evaluate(run.path, episodes=8, again=True).returns.mean(-1).mean()
    assert float(f"{again:.9g}") == recorded
    assert marlet.evaluate(run.path, episodes=8).returns.mean() != recorded  # the control: fresh episodes


def test_another_environment_is_not_resumed_in(tmp_path):
    run = marlet.train(
        marlet.TwoStep(), marlet.tabular_iql(), steps=20, evaluations=1, episodes=1, out=tmp_path, name="x", quiet=True
    )
    with pytest.raises(MarletError, match=r"was begun in .*TwoStep.*cannot go on in .*Spread"):
        marlet.resume(run.path, env="spread")
