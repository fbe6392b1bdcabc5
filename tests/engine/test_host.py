"""Host environments in worker processes: the same steps as without workers, exact continuation, and clear ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import host_worlds as worlds
import jax
import numpy as np
import pytest

from marlet.bridges.facts import fields
from marlet.bridges.from_pettingzoo import Copy
from marlet.bridges.resolve import Factory
from marlet.bridges.worker import board, board_bytes, episode_seed
from marlet.engine.host import HostEnv
from marlet.engine.host_play import rollout
from marlet.errors import EnvironmentFault, MarletError, NonFinite

B, N = 5, 2


def dice(**options):
    return Factory("host_worlds", "Dice", options)


@pytest.fixture(scope="module")
def crewed():
    """Five copies in two workers, used by every test that does not break them."""
    with HostEnv(dice(), B, workers=2) as env:
        yield env


def actions(length, seed=0, batch=B):
    return np.random.default_rng(seed).integers(3, size=(length, batch, N))


def equal(one, two):
    return all(np.array_equal(vars(one)[name], vars(two)[name]) for name in vars(one))


def slow_play(copies, seed, plan):
    """Each copy by itself, without any of the machinery: (next, now) rows of every step."""
    said = []
    for b in range(copies):
        copy, episode = Copy(worlds.Dice, b), 0
        blank = {name: (shape, kind) for name, (shape, kind) in fields(copy.facts).items()}
        now = {name: np.zeros(*sort) for name, sort in blank.items()}
        copy.reset(episode_seed(seed, b, 0), now)
        rows = [(None, now)]
        for action in plan[:, b]:
            next = {name: np.zeros(*sort) for name, sort in blank.items()}
            now = next
            if copy.step(action, next):
                episode += 1
                now = {name: np.zeros(*sort) for name, sort in blank.items()}
                copy.reset(episode_seed(seed, b, episode), now)
            rows.append((next, now))
        said.append(rows)
    return said


@pytest.mark.parametrize("workers", [0, 2])
def test_every_copy_says_what_it_says_alone(crewed, workers):
    plan = actions(20)
    env = crewed if workers else HostEnv(dice(), B, workers=0)
    expected = slow_play(B, 4, plan)
    now = env.reset(4)
    ended = 0
    for t in range(21):
        if t:
            next, now = env.step(plan[t - 1])
            ended += next.over.sum()
        for b in range(B):
            for name, value in expected[b][t][1].items():
                np.testing.assert_array_equal(vars(now)[name][b], value)
            if t:
                for name, value in expected[b][t][0].items():
                    np.testing.assert_array_equal(vars(next)[name][b], value)
    assert ended > 2 * B


def test_the_final_step_is_kept_and_what_follows_is_a_reset(crewed):
    crewed.reset(0)
    for action in actions(12):
        next, now = crewed.step(action)
        over = next.over
        assert (next.obs[over, :, 0] >= 2).all()  # the clock in the observation still says the episode's length
        assert next.reward[over].all()
        assert (now.obs[over, :, 0] == 0).all()
        assert not now.reward[over].any()
        assert not now.truncated.any()


def test_steps_already_given_never_change(crewed):
    start = crewed.reset(1)
    kept = start.obs.copy()
    next, _ = crewed.step(actions(1)[0])
    later = next.obs.copy()
    crewed.step(actions(1)[0])
    np.testing.assert_array_equal(start.obs, kept)
    np.testing.assert_array_equal(next.obs, later)


def test_equal_seeds_give_equal_runs_and_copies_differ(crewed):
    first = [crewed.reset(7), *(crewed.step(a)[1] for a in actions(8))]
    again = [crewed.reset(7), *(crewed.step(a)[1] for a in actions(8))]
    assert all(equal(*pair) for pair in zip(first, again, strict=True))
    assert len(np.unique(first[0].obs[:, 0, 2])) == B
    assert not equal(crewed.reset(8), first[0])


def test_every_episode_has_a_seed_of_its_own():
    seeds = [episode_seed(s, b, e) for s in range(3) for b in range(10) for e in range(10)]
    assert len(set(seeds)) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("when", [0, 1, 4, 9])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_snapshot_continues_with_the_same_steps(crewed, workers, when):
    plan = actions(20, seed=1)
    crewed.reset(3)
    for action in plan[:when]:
        crewed.step(action)
    snapshot = crewed.snapshot()
    now = crewed._now
    expected = [crewed.step(action) for action in plan[when:]]

    other = crewed if workers else HostEnv(dice(), B, workers=0)
    other.reset(99)
    other.step(plan[0])
    assert equal(other.restore(snapshot), now)
    second = other.snapshot()
    assert all(np.array_equal(snapshot[name], second[name]) for name in snapshot)
    for action, (next, after) in zip(plan[when:], expected, strict=True):
        mine, mine_after = other.step(action)
        assert equal(mine, next)
        assert equal(mine_after, after)


def test_without_the_actions_a_snapshot_would_not_continue(crewed):
    """The negative control of the test above."""
    crewed.reset(3)
    for action in actions(1, seed=1):
        _, now = crewed.step(action)
    snapshot = crewed.snapshot()
    snapshot["length"] = np.zeros_like(snapshot["length"])
    with pytest.warns(UserWarning, match="did not come back"):
        assert not equal(crewed.restore(snapshot), now)


def test_continuous_actions_are_replayed():
    env = HostEnv(worlds.Pushed, 2, workers=0)
    env.reset(0)
    plan = np.random.default_rng(0).uniform(-1, 1, (3, 2, N, 2)).astype(np.float32)
    for action in plan:
        _, now = env.step(action)
    assert equal(env.restore(env.snapshot()), now)
    with pytest.raises(NonFinite, match="'right' in copy 1"):
        env.step(np.where(np.arange(8).reshape(2, 2, 2) == 7, np.nan, 0))


def test_an_environment_that_forgets_its_seed_is_told_of():
    env = HostEnv(worlds.Careless, B, workers=0)
    env.reset(0)
    for action in actions(3):
        env.step(action)
    with pytest.warns(UserWarning, match="not deterministic given their seed"):
        env.restore(env.snapshot())
    for action in actions(20):
        env.step(action)
    env.snapshot()


def test_a_snapshot_of_other_copies_is_refused(crewed):
    crewed.reset(0)
    snapshot = crewed.snapshot()
    with pytest.raises(MarletError, match="of 5 copies"):
        HostEnv(dice(), 2, workers=0).restore(snapshot)


def test_the_history_does_not_outgrow_the_longest_episode(crewed):
    crewed.reset(0)
    for action in actions(100):
        crewed.step(action)
        assert len(crewed._history) <= 6


def test_workers_are_other_processes_without_jax():
    with HostEnv(Factory("host_worlds", "Spy"), 4, workers=2) as env:
        env.reset(0)
        next, _ = env.step(actions(1, batch=4)[0])
        assert not next.reward[:, 0].any()
        processes = [worker.process.pid for worker in env._crew.workers]
        np.testing.assert_array_equal(next.reward[:, 1], np.float32([processes[b // 2] for b in range(4)]))
        assert os.getpid() not in processes
    with HostEnv(Factory("host_worlds", "Spy"), 1, workers=0) as here:  # the control: this process has JAX
        here.reset(0)
        next, _ = here.step(actions(1, batch=1)[0])
        assert next.reward[0].tolist() == [1, np.float32(os.getpid())]


def test_the_board_is_as_large_as_it_says():
    for make in (worlds.Dice, worlds.Pushed):
        facts = Copy(make).facts
        for batch in (1, 3, 200):
            size = board_bytes(facts, batch, 2)
            last = board(facts, batch, 2, memoryview(bytearray(size))).at
            last[:] = 1
            with pytest.raises((TypeError, ValueError)):
                board(facts, batch, 2, memoryview(bytearray(size - 64)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("error", "kind"), [("value", "ValueError: the die fell off"), ("exit", "SystemExit: 3")])
def test_what_an_environment_raises_is_told_with_all_that_repeats_it(workers, error, kind):
    with HostEnv(Factory("host_worlds", "Raises", {"error": error}), 2, workers=workers) as env:
        env.reset(5)
        plan = actions(37, batch=2)
        for action in plan[:36]:
            env.step(action)
        with pytest.raises(EnvironmentFault) as fault:
            env.step(plan[36])
    text = str(fault.value)
    assert text.startswith(f"Environment copy 0 raised {kind}")
    assert f"seed {episode_seed(5, 0, 0)}, episode 0, after 36 steps; last actions {plan[36, 0].tolist()}" in text
    assert "host_worlds.py" in text
    assert fault.value.exit_code == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_what_goes_wrong_as_an_episode_opens_is_told_of_that_episode(workers):
    with HostEnv(Factory("host_worlds", "Stumbles", {"lasting": 3}), 2, workers=workers) as env:
        env.reset(5)
        plan = actions(3, batch=2)
        for action in plan[:2]:
            env.step(action)
        with pytest.raises(EnvironmentFault, match="under the table") as fault:
            env.step(plan[2])
    told = f"while: reset, seed {episode_seed(5, 0, 1)}, episode 1, after 0 steps"
    assert told in str(fault.value)


def test_a_snapshot_after_a_failed_step_is_of_the_last_whole_one():
    with HostEnv(Factory("host_worlds", "Blurts", {"lasting": 3}), 2, workers=1) as env:
        env.reset(5)
        _, now = env.step(actions(1, batch=2)[0])
        before = env.snapshot()
        with pytest.raises(EnvironmentFault):
            env.step(actions(1, batch=2)[0])
        after = env.snapshot()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    with HostEnv(Factory("host_worlds", "Dice", {"lasting": 3}), 2, workers=0) as env:
        assert equal(env.restore(after), now)


def test_pictures_are_drawn_in_this_process(crewed):
    with pytest.raises(MarletError, match="workers=0"):
        crewed.render()


def test_a_broken_contract_is_told_from_a_worker():
    with HostEnv(Factory("host_worlds", "Blurts"), 2, workers=2) as env:
        env.reset(5)
        env.step(actions(1, batch=2)[0])
        with pytest.raises(EnvironmentFault, match=r"agent 'left', step 2 .*not finite"):
            env.step(actions(1, batch=2)[0])
        with pytest.raises(MarletError, match="has been closed"):
            env.step(actions(1, batch=2)[0])


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("idle", [True, False])
def test_a_killed_worker_is_noticed_at_once(idle):
    env = HostEnv(dice() if idle else Factory("host_worlds", "Hangs"), 4, workers=2)
    env.reset(0)
    victims = [worker.process for worker in env._crew.workers]
    if idle:
        victims[1].kill()
        victims[1].wait()
    else:
        # The first worker hangs all the while; the death of the second must be heard nevertheless.
        subprocess.Popen([sys.executable, "-c", f"import time, os; time.sleep(0.3); os.kill({victims[1].pid}, 9)"])
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match="Worker 1 of environment copies 2 to 3 was killed by SIGKILL"):
        env.step(actions(1, batch=4)[0])
    assert time.monotonic() - began < (2 if idle else 4)
    assert all(gone(victim.pid) for victim in victims)


def test_a_crash_shows_the_stack():
    env = HostEnv(Factory("host_worlds", "Crashes"), 2, workers=1)
    env.reset(0)
    with pytest.raises(EnvironmentFault, match=r"(?s)SIGSEGV, at copy 0, seed \d+.*host_worlds.py"):
        env.step(actions(1, batch=2)[0])


def test_a_hanging_environment_is_ended_and_shows_where_it_was():
    env = HostEnv(Factory("host_worlds", "Hangs"), 1, workers=1, timeout=0.5)
    env.reset(0)
    victim = env._crew.workers[0].process
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"(?s)stepping for more than 0.5 seconds.*copy 0.*host_worlds.py"):
        env.step(actions(1, batch=1)[0])
    assert time.monotonic() - began < 5.5
    assert gone(victim.pid)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_cannot_be_built(workers):
    with pytest.raises(EnvironmentFault, match="could not be built: RuntimeError: no licence found"):
        HostEnv(Factory("host_worlds", "Unbuildable"), 1, workers=workers)


def test_patience_is_for_each_copy():
    """Six copies that take a quarter of a second each take longer together than one may."""
    with HostEnv(Factory("host_worlds", "Sleepy"), 6, workers=1, timeout=0.6) as env:
        env.reset(0)
        env.step(actions(1, batch=6)[0])


@pytest.mark.parametrize("how", ["closed", "worker killed", "parent killed"])
def test_what_an_environment_has_started_ends_with_it(how):
    if how == "parent killed":
        rest = "print(int(env.step(np.zeros((2, 2), int))[0].reward[0, 0]), flush=True); time.sleep(100)"
        code = FORGETFUL.format(folder=os.path.dirname(worlds.__file__), name="Served", rest=rest)
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        parent.stdout.readline()
        server = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    else:
        env = HostEnv(Factory("host_worlds", "Served"), 1, workers=1)
        env.reset(0)
        server = int(env.step(actions(1, batch=1)[0])[0].reward[0, 0])
        assert not ended(server)
        if how == "closed":
            env.close()
        else:
            env._crew.workers[0].process.kill()
            with pytest.raises(EnvironmentFault, match="SIGKILL"):
                env.step(actions(1, batch=1)[0])
    deadline = time.monotonic() + 5
    while not ended(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended(server)


def ended(pid):
    """Whether a process is gone, or only waits to be counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return gone(pid)


def test_no_worker_outlives_close_and_close_may_be_repeated():
    env = HostEnv(dice(), 3, workers=3)
    env.reset(0)
    pids = [worker.process.pid for worker in env._crew.workers]
    env.close()
    env.close()
    assert all(map(gone, pids))


FORGETFUL = """
import signal, sys, time; sys.path.insert(0, {folder!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
from marlet.bridges.resolve import Factory
from marlet.engine.host import HostEnv
import numpy as np
env = HostEnv(Factory("host_worlds", {name!r}), 2, workers=2)
env.reset(0)
print(*[worker.process.pid for worker in env._crew.workers], flush=True)
{rest}
"""


@pytest.mark.parametrize("signals", [signal.SIGKILL, signal.SIGINT])
def test_workers_leave_with_their_parent(signals):
    """Killed while the workers hang in a step; or interrupted, when they must not be the ones to die noisily."""
    code = FORGETFUL.format(
        folder=os.path.dirname(worlds.__file__), name="Hangs", rest="env.step(np.zeros((2, 2), int))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.2)
    parent.send_signal(signals)
    error = parent.communicate(timeout=10)[1]
    deadline = time.monotonic() + 5
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, pids))
    assert error.count("KeyboardInterrupt") == (1 if signals == signal.SIGINT else 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_action_that_is_not_legal_is_refused(workers):
    with HostEnv(Factory("host_worlds", "Bounded"), 2, workers=workers) as env:
        env.reset(0)
        env.step(np.ones((2, N), int))
        for bad in (2, 3, -1):
            with pytest.raises(MarletError, match=rf"'right' in copy 1 chose action {bad}.*\[0, 1\]"):
                env.step([[0, 0], [0, bad]])
        with pytest.raises(MarletError, match="shape"):
            env.step(np.zeros((2, 3), int))


def test_what_workers_cannot_import_is_refused_or_kept_here():
    make = lambda: worlds.Dice()  # noqa: E731
    with pytest.raises(MarletError, match="module of its own, or use workers=0"):
        HostEnv(make, 2, workers=1)
    assert HostEnv(make, 2)._crew is None


def test_misuse_is_named():
    env = HostEnv(dice(), 2, workers=0)
    for call in (env.snapshot, lambda: env.step(np.zeros((2, N), int))):
        with pytest.raises(MarletError, match="reset"):
            call()
    with pytest.raises(MarletError, match="0 or more"):
        env.reset(-1)
    with pytest.raises(MarletError, match="at least one"):
        HostEnv(dice(), 0)
    env.close()
    with pytest.raises(MarletError, match="closed"):
        env.reset(0)


def test_a_rollout_joins_transitions_and_forgets_where_an_episode_ends(crewed):
    traces = []

    @jax.jit
    def act(memory, step, key):
        traces.append(1)
        action = jax.random.randint(key, (B, N), 0, 3)
        return memory + 1, action, {"seen": step.obs[..., 2], "memory": memory}

    blank = jax.numpy.zeros(B, jax.numpy.int32)
    now = crewed.reset(2)
    first = np.ones(B, bool)
    memory = blank
    age = np.zeros(B, int)
    previous = None
    for part in range(3):
        began = memory
        now, first, memory, played = rollout(act, crewed, now, first, memory, blank, 7, key=jax.random.key(part))
        t = played.transitions
        assert t.action.shape == (7, B, N)
        assert t.next.obs.shape == (7, B, N, 3)
        np.testing.assert_array_equal(played.memory, began)
        np.testing.assert_array_equal(t.extra["seen"], t.now.obs[..., 2])
        np.testing.assert_array_equal(t.first[1:], t.next.over[:-1])
        going_on = ~t.next.over[:-1]
        np.testing.assert_array_equal(t.now.obs[1:][going_on], t.next.obs[:-1][going_on])
        # The reward belongs to the action beside it: the die, plus ten times the action.
        np.testing.assert_allclose(t.next.reward, t.next.obs[..., 2] + 10 * t.action, rtol=1e-6)
        for step in range(7):
            age = np.where(t.first[step], 0, age)
            np.testing.assert_array_equal(t.extra["memory"][step], age)
            np.testing.assert_array_equal(t.now.obs[step, :, 0, 0], age)
            age = age + 1
        if previous is not None:
            np.testing.assert_array_equal(t.now.obs[0], previous.obs)
        previous = now
    assert len(traces) == 1
