"""PettingZoo's dictionaries become the arrays worked by hand here, and broken environments are named."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from relay import Pushers, Relay, Tampered, Turns

from marlet.bridges.facts import Facts, fields
from marlet.bridges.from_pettingzoo import Copy
from marlet.bridges.resolve import resolve
from marlet.bridges.spaces import Odd, reader_of, taker_of
from marlet.errors import EnvironmentFault, MarletError


def record(copy: Copy) -> dict[str, np.ndarray]:
    """Arrays filled with rubbish, so that whatever is not written shows."""
    return {name: np.full(shape, 77).astype(kind) for name, (shape, kind) in fields(copy.facts).items()}


def play(env, actions, **options):
    """The records after a reset and after each action."""
    copy = Copy(lambda: env, **options)
    records = [record(copy)]
    copy.reset(3, records[0])
    for action in actions:
        records.append(record(copy))
        if copy.step(np.asarray(action), records[-1]):
            break
    return records


ACTIONS = [(0, 1, 2), (1, 0, 0), (1, 1, 1), (0, 1, 0)]


def test_what_is_known_before_the_first_step():
    assert Copy(Relay).facts == Facts(
        names=("scout_0", "scout_1", "carrier_0"),
        num_actions=3,
        obs_size=4,
        state_size=12,
        continuous=False,
        kinds=(0, 0, 1),
        teams=(0, 0, 0),
        horizon=4,
    )


def expected_playthrough():
    T, F = True, False
    everyone, one_gone = [T, T, T], [F, T, T]
    obs = [
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 10, 20, 30]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 10, 20, 30]],
        [[2, 0, 0, 0], [2, 1, 0, 0], [2, 10, 20, 30]],  # scout 0 dies here: its last observation is kept
        [[0, 0, 0, 0], [3, 1, 0, 0], [3, 10, 20, 30]],
        [[0, 0, 0, 0], [4, 1, 0, 0], [4, 10, 20, 30]],  # `env.agents` is empty here
    ]
    scout, dead = [T, T, F], [T, T, T]
    available = [
        [scout, scout, [F, T, T]],
        [scout, scout, [T, F, T]],
        [dead, scout, [T, T, F]],
        [dead, scout, [F, T, T]],
        [dead, scout, [T, F, T]],
    ]
    # The carrier's choice k is its action k + 1.
    reward = [
        [0, 0, 0],
        [1 + 0 + 0, 1 + 10 + 100, 1 + 20 + 300],
        [2 + 0 + 100, 2 + 10 + 0, 2 + 20 + 100],
        [0, 3 + 10 + 100, 3 + 20 + 200],
        [0, 4 + 10 + 100, 4 + 20 + 100],
    ]
    alive = [everyone, everyone, one_gone, one_gone, one_gone]
    truncated = [F, F, F, F, T]
    return [
        {
            "obs": np.array(obs[t]),
            "state": np.array(obs[t]).reshape(-1),
            "available": np.array(available[t]),
            "reward": np.array(reward[t]),
            "alive": np.array(alive[t]),
            "truncated": np.array(truncated[t]),
            "cost": np.zeros(3),
        }
        for t in range(5)
    ]


def test_a_whole_episode_by_hand():
    env = Relay()
    said = play(env, ACTIONS)
    expected = expected_playthrough()
    assert len(said) == len(expected)
    for t, (mine, theirs) in enumerate(zip(said, expected, strict=True)):
        for name, value in theirs.items():
            np.testing.assert_array_equal(mine[name], value, err_msg=f"{name} after {t} steps")
    assert env.seed == 3
    assert env.received[2] == {"scout_1": 1, "carrier_0": 2}


def final_step_is_kept(said) -> bool:
    last = expected_playthrough()[-1]
    return all(np.array_equal(said[-1][name], last[name]) for name in ("reward", "obs", "truncated"))


def test_the_last_rewards_and_observations_are_kept_when_no_agent_is_left():
    said = play(Relay(), ACTIONS)
    assert final_step_is_kept(said)
    # A wrapper that goes by `env.agents` finds it empty: no reward, and the observation before.
    faulty = [*said[:-1], {**said[-1], "reward": np.zeros(3), "obs": said[-2]["obs"]}]
    assert not final_step_is_kept(faulty)


@pytest.mark.parametrize(
    ("deaths", "cuts", "alive", "truncated"),
    [
        ((None, None, None), (1, 1, 1), [1, 1, 1], True),  # the clock
        ((1, 1, 1), (None, None, None), [0, 0, 0], False),  # all die
        ((1, None, None), (None, 1, 1), [0, 1, 1], True),  # all who remain are cut off
        ((1, None, None), (1, 1, 1), [0, 1, 1], True),  # dead and cut off is dead
        ((None, None, None), (1, None, None), [0, 1, 1], False),  # cut off alone is a death
        ((None, 1, None), (1, None, None), [0, 0, 1], False),
        ((1, 1, 1), (1, 1, 1), [0, 0, 0], False),
    ],
)
def test_truncation_is_of_all_who_remain_and_otherwise_a_death(deaths, cuts, alive, truncated):
    last = play(Relay(deaths, cuts), [(0, 0, 0)])[-1]
    assert last["alive"].tolist() == [bool(x) for x in alive]
    assert last["truncated"] == truncated


@settings(max_examples=100, deadline=None)
@given(
    deaths=st.tuples(*[st.one_of(st.none(), st.integers(1, 6))] * 3),
    cuts=st.tuples(*[st.one_of(st.none(), st.integers(1, 6))] * 3),
)
def test_any_schedule_of_deaths_agrees_with_a_slow_reference(deaths, cuts):
    said = play(Relay(deaths, cuts), [(0, 0, 0)] * 7)
    endless = 99
    leaves = [min(d or endless, c or endless) for d, c in zip(deaths, cuts, strict=True)]
    dies = [(d or endless) <= (c or endless) for d, c in zip(deaths, cuts, strict=True)]
    end = min(max(leaves), 7)
    assert len(said) == end + 1
    for t in range(1, end + 1):
        for i in range(3):
            earns = t <= leaves[i]
            assert said[t]["reward"][i] == (t + 10 * i + 100 * (i == 2) if earns else 0)
            cut_last = leaves[i] == max(leaves) == t and not dies[i]
            assert said[t]["alive"][i] == (t < leaves[i] or cut_last)
            if t > leaves[i]:
                assert not said[t]["obs"][i].any()
                assert said[t]["available"][i].all()
        cut = [i for i in range(3) if leaves[i] == t and not dies[i]]
        assert said[t]["truncated"] == (bool(cut) and max(leaves) == t)


def test_vectors_are_stretched_to_their_bounds_and_images_scaled():
    env = Pushers()
    start, after = play(env, [[[-0.5, 0.5, 9, -9], [0.25, 9, 9, 9]]])
    np.testing.assert_array_equal(env.received["long"], [[0.25, 1], [1, -2]])
    np.testing.assert_array_equal(env.received["short"], [0.25])
    assert env.received["short"].dtype == np.float64
    np.testing.assert_allclose(start["obs"], [[0, 0.2, 0.4, 1], [0, 0, 1, 0]], rtol=1e-6)
    np.testing.assert_array_equal(start["state"], [7, 8, 9])
    np.testing.assert_array_equal(start["available"], [[True] * 4, [True, False, False, False]])
    np.testing.assert_array_equal(after["reward"], [1, 2])
    np.testing.assert_array_equal(after["cost"], [2.5, 0])
    facts = Copy(Pushers).facts
    assert (facts.continuous, facts.num_actions, facts.kinds, facts.teams, facts.horizon) == (
        True,
        4,
        (0, 1),
        (0, 1),
        None,
    )


def test_vectors_without_bounds_are_passed_on():
    half = spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, np.inf]))
    np.testing.assert_array_equal(taker_of(half).take(np.float32([-3, 7])), [0, 7])


@pytest.mark.parametrize(
    ("space", "value", "features"),
    [
        (spaces.Box(0, 255, (2,), np.uint8), np.uint8([0, 51]), [0, 0.2]),
        (spaces.Box(0, 200, (2,), np.uint8), np.uint8([0, 51]), [0, 51]),
        (spaces.Discrete(3, start=-1), -1, [1, 0, 0]),
        (spaces.MultiBinary((2, 2)), np.eye(2, dtype=np.int8), [1, 0, 0, 1]),
        (spaces.MultiDiscrete([2, 3], start=[0, 1]), np.array([1, 3]), [0, 1, 0, 0, 1]),
        (spaces.MultiDiscrete([[2], [2]]), np.array([[1], [0]]), [0, 1, 1, 0]),
        (
            spaces.Tuple([spaces.Discrete(2), spaces.Dict({"b": spaces.Box(0, 9, ()), "a": spaces.Box(0, 9, (1,))})]),
            (1, {"b": 3.0, "a": [4.0]}),
            [0, 1, 4, 3],
        ),
    ],
)
def test_every_space_becomes_features(space, value, features):
    reader = reader_of(space)
    assert reader.size == len(features)
    row = np.full(reader.size, 77, np.float32)
    reader.read(value, row)
    np.testing.assert_allclose(row, features, rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "value"), [(spaces.Discrete(3), 3), (spaces.Discrete(3), 0.5), (spaces.Discrete(3), "1")]
)
def test_a_choice_outside_its_space_is_odd(space, value):
    with pytest.raises(Odd):
        reader_of(space).read(value, np.zeros(3, np.float32))


def test_the_state_can_be_everyones_observations():
    start, *_ = play(Pushers(), [], own_state=False)
    np.testing.assert_array_equal(start["state"], start["obs"].reshape(-1))


def edit(place, agent, value):
    """A change of one entry of what `step` returns: 0 observations ... 4 infos."""
    return lambda env, *said: said[place].__setitem__(agent, value)


def drop(place, agent):
    return lambda env, *said: said[place].pop(agent)


def leave(env, *said):
    env.agents = env.agents[1:]


OBS, REWARD, TERMINATED, TRUNCATED, INFO = range(5)
CARRIED = {"observation": np.zeros((2, 2))}

MUTANTS = {
    "unknown agent in observations": (edit(OBS, "scout_9", np.zeros(2)), "'scout_9'.*Did you mean 'scout_"),
    "unknown agent in rewards": (edit(REWARD, "ghost", 0.0), "`rewards` names an agent 'ghost'"),
    "everyone at once": (edit(TERMINATED, "__all__", False), "'__all__'"),
    "unknown agent alive": (lambda env, *said: env.agents.append("ghost"), "`env.agents` names an agent 'ghost'"),
    "observation missing": (drop(OBS, "scout_1"), "agent 'scout_1', step 2 .*no observation"),
    "reward missing": (drop(REWARD, "scout_1"), "no reward"),
    "termination missing": (drop(TERMINATED, "scout_1"), "no termination"),
    "truncation missing": (drop(TRUNCATED, "scout_1"), "no truncation"),
    "shape": (edit(OBS, "scout_0", np.zeros(3)), r"has shape \(3,\), but \(2,\)"),
    "shape with one more axis": (edit(OBS, "scout_0", np.zeros((1, 2))), r"has shape \(1, 2\)"),
    "shapes that are right in sum": (
        lambda env, obs, *rest: obs.update(scout_0=np.zeros(3, np.float32), scout_1=np.zeros(1, np.float32)),
        r"'scout_0'.*has shape \(3,\)",
    ),
    "nan observation": (edit(OBS, "scout_1", np.array([0, np.nan])), "copy 5, agent 'scout_1', step 2.*not finite"),
    "another mask, which is no fault": (edit(OBS, "carrier_0", CARRIED | {"action_mask": np.ones(3)}), None),
    "infinite observation": (edit(OBS, "scout_1", np.array([0, -np.inf])), "not finite"),
    "too large for float32": (edit(OBS, "scout_1", np.array([0, 1e300])), "not finite"),
    "text observation": (edit(OBS, "scout_0", np.array(["a", "b"])), "not numbers"),
    "object observation": (edit(OBS, "scout_0", np.array([None, 1])), "object, not numbers"),
    "complex observation": (edit(OBS, "scout_0", np.array([1j, 1])), "complex128, not numbers"),
    "part missing": (edit(OBS, "carrier_0", {"action_mask": np.ones(3)}), "no part 'observation'"),
    "mask missing": (edit(OBS, "carrier_0", CARRIED), "no part 'action_mask'"),
    "nan reward": (edit(REWARD, "scout_0", np.nan), "agent 'scout_0', step 2.*reward is nan"),
    "infinite reward": (edit(REWARD, "scout_0", -np.inf), "reward is -inf"),
    "reward too large for float32": (edit(REWARD, "scout_0", 1e300), "reward is 1e\\+300"),
    "rewards too large that cancel": (
        lambda env, obs, reward, *rest: reward.update(scout_0=1e300, scout_1=-1e300),
        "reward is 1e\\+300",
    ),
    "text reward": (edit(REWARD, "scout_0", "1.0"), "not a number"),
    "reward of all": (edit(REWARD, "scout_0", np.zeros(3)), "not a number"),
    "no reward": (edit(REWARD, "scout_0", None), "not a number"),
    "half terminated": (edit(TERMINATED, "scout_0", 0.5), "neither True nor False"),
    "text terminated": (edit(TERMINATED, "scout_0", "False"), "not a number"),
    "left unsaid": (leave, "agent 'scout_0'.*without having been terminated"),
    "nothing legal": (edit(INFO, "scout_1", {"action_mask": np.zeros(2)}), "agent 'scout_1', step 2.*nothing legal"),
    "nothing legal inside": (edit(OBS, "carrier_0", CARRIED | {"action_mask": np.zeros(3)}), "nothing legal"),
    "mask of another length": (edit(INFO, "scout_1", {"action_mask": np.ones(3)}), r"mask has shape \(3,\)"),
    "mask of text": (edit(INFO, "scout_1", {"action_mask": np.array(["a", "b"])}), "must be 2 ones and zeros"),
    "nan cost": (edit(INFO, "scout_1", {"cost": np.nan}), "cost is nan"),
}


INSIDE = ("another mask, which is no fault", "part missing", "mask missing", "nothing legal inside")
"""Mutants of a mask inside the observation."""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sight", ["masked", "grid", "vector"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_environment_is_named_at_the_step_it_breaks(mutant, sight):
    change, message = MUTANTS[mutant]
    if mutant in INSIDE and sight != "masked":
        message = "not numbers|has shape"  # a dictionary where an array was declared
    env = Tampered(change, sight)
    if message is None:  # the control: a legal edit passes
        assert len(play(env, [(0, 0, 1)] * 3)) == 4
        return
    with pytest.raises(EnvironmentFault, match=f"(?s){message}") as fault:
        play(env, [(0, 0, 1)] * 3, index=5)
    assert env.t == 2
    assert "\n" not in str(fault.value)


def only_at_a_glance(monkeypatch):
    def refuse(copy, *given, out):
        raise AssertionError(f"step {copy.clock} got a close look")

    monkeypatch.setattr(Copy, "_closely", refuse)


@pytest.mark.parametrize("sight", ["grid", "vector"])
def test_a_step_in_which_nothing_stands_out_gets_no_close_look(monkeypatch, sight):
    only_at_a_glance(monkeypatch)
    calm = Relay(deaths=(None, None, None), cuts=(None, None, None), sight=sight)
    assert len(play(calm, [(0, 0, 0)] * 6)) == 7
    for eventful, step in (
        (Relay(deaths=(None, None, 3), cuts=(None, None, None), sight=sight), 3),
        (Relay(deaths=(None, None, None), sight=sight), 4),
        (Relay(), 1),
        (Tampered(edit(INFO, "scout_1", {"cost": 1.0}), sight=sight), 2),
    ):
        with pytest.raises(AssertionError, match=f"step {step} got"):
            play(eventful, [(0, 0, 0)] * 6)


SAID = {
    OBS: [
        *[
            np.array([1, 2], kind)
            for kind in ("float32", "float64", "int64", "bool", "float16", ">f4", "complex64", "O")
        ],
        *[np.float32([0, bad]) for bad in (np.nan, np.inf, 1e25)],
        *[np.float64([0, bad]) for bad in (np.nan, -np.inf, 1e300)],
        np.ma.array([1.0, 2.0]),
        np.zeros((1, 2), np.float32),
        np.zeros(3, np.float32),
        [1.0, 2.0],
        3.0,
        "seen",
        None,
    ],
    REWARD: [
        *[1, 2.5, True, np.float32(3), np.int8(4), np.array(5.0), np.array([6.0]), np.zeros(3)],
        *["1", None, np.nan, -np.inf, 1e300, 1j, 10**400],
    ],
    TERMINATED: [False, True, np.False_, np.True_, 0, 1, 0.0, 0.5, -1, "False", None, np.array([False]), np.zeros(2)],
    INFO: [None, {}, {"x": 1}, {"cost": 2.0}, {"cost": np.nan}, {"action_mask": [1, 0]}, {"action_mask": [0, 0]}, 7],
}
SAID[TRUNCATED] = SAID[TERMINATED]
EDIT = st.sampled_from([(place, k) for place, values in SAID.items() for k in range(len(values))])


def outcome(copy: Copy, steps: int):
    """What is written at each step, and whether it is over; at the end the error if there is one."""
    said = [record(copy)]
    try:
        copy.reset(3, said[-1])
        for _ in range(steps):
            said.append(record(copy))
            said.append(copy.step(np.zeros(3, int), said[-1]))
    except Exception as error:
        # What was half written before an error is of no concern.
        return [*said[:-1], f"{type(error).__name__}: {error}"]
    return said


def agree(one, two) -> bool:
    return len(one) == len(two) and all(
        all(np.array_equal(a[name], b[name]) for name in a) if isinstance(a, dict) else a == b
        for a, b in zip(one, two, strict=True)
    )


def glance_and_close_look(change, sight):
    glance, close = (Copy(lambda: Tampered(change, sight)) for _ in range(2))
    close._at_a_glance = lambda *given, out: False
    return glance, close


@pytest.mark.parametrize("sight", ["grid", "vector"])
@pytest.mark.parametrize(("place", "k"), [(place, k) for place, values in SAID.items() for k in range(len(values))])
def test_a_glance_and_a_close_look_come_to_the_same(place, k, sight):
    glance, close = glance_and_close_look(edit(place, "scout_1", SAID[place][k]), sight)
    assert agree(outcome(glance, 3), outcome(close, 3))


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(EDIT, st.sampled_from(["scout_0", "scout_1", "ghost"])), min_size=2, max_size=3),
    gone=st.sampled_from([None, None, *range(5)]),
    leaves=st.booleans(),
    sight=st.sampled_from(["grid", "vector"]),
)
def test_they_do_where_several_things_are_odd_at_once(edits, gone, leaves, sight):
    def change(env, *said):
        for (place, k), agent in edits:
            said[place][agent] = SAID[place][k]
        if gone is not None:
            said[gone].pop("scout_1", None)
        if leaves:
            env.agents = env.agents[1:]

    glance, close = glance_and_close_look(change, sight)
    assert agree(outcome(glance, 3), outcome(close, 3))


def test_a_glance_that_misses_something_would_be_seen():
    """The control: a glance that overlooks masks disagrees with a close look."""
    glance, close = glance_and_close_look(edit(INFO, "scout_1", {"action_mask": [1, 0]}), "grid")
    look = glance._at_a_glance
    glance._at_a_glance = lambda *given, out: look(*given[:4], {}, out=out)
    assert not agree(outcome(glance, 3), outcome(close, 3))


def test_an_agent_may_not_come_back():
    class Revived(Relay):
        def step(self, actions):
            said = super().step(actions)
            if self.t == 3:
                self.agents.append("scout_0")
            return said

    with pytest.raises(EnvironmentFault, match=r"'scout_0', step 3.*came \(back\)"):
        play(Revived(), ACTIONS)


def test_not_even_if_nothing_else_stands_out():
    class Undead(Relay):
        def step(self, actions):
            said = super().step(actions)
            if self.t != 3:
                return said
            self.agents = list(self.possible_agents)
            said = (dict.fromkeys(self.agents, value) for value in (0.0, False, False, {}))
            return {agent: self.see(agent) for agent in self.agents}, *said

    with pytest.raises(EnvironmentFault, match=r"'scout_0', step 3.*came \(back\)"):
        play(Undead(sight="vector"), ACTIONS)


def test_a_dead_agent_may_have_nothing_legal():
    change = lambda env, obs, reward, terminated, truncated, info: (  # noqa: E731
        terminated.update(scout_1=True),
        env.agents.remove("scout_1"),
        info.update(scout_1={"action_mask": np.zeros(2)}),
    )
    said = play(Tampered(change), [(0, 0, 1)] * 2)
    assert said[2]["available"][1].all()


@pytest.mark.parametrize("kind", ["bool", "int8", "int64", "uint8", "uint64", "float16", "float32", "float64"])
def test_numbers_of_every_type_are_cast(kind):
    change = lambda env, obs, reward, *rest: (  # noqa: E731
        obs.update(scout_0=np.array([1, 0]).astype(kind)),
        reward.update(scout_0=np.ones((), kind)),
    )
    said = play(Tampered(change), [(0, 0, 1)] * 2)[-1]
    np.testing.assert_array_equal(said["obs"][0], [1, 0, 0, 0])
    assert said["reward"][0] == 1


class Mixed(Relay):
    def action_space(self, agent):
        return spaces.Box(-1, 1, (2,)) if agent == "scout_0" else super().action_space(agent)


class Words(Relay):
    def observation_space(self, agent):
        return spaces.Text(3)


class Pairs(Relay):
    def action_space(self, agent):
        return spaces.MultiDiscrete([2, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Turns, "turn-based.*parallel_env"),
        (lambda: gymnasium.make("CartPole-v1"), "one agent"),
        (dict, "builtins.dict.*ParallelEnv"),
        (Mixed, "mixes discrete and continuous"),
        (Words, "no fixed number of features"),
        (Pairs, "neither one choice"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_cure(make, message):
    with pytest.raises(MarletError, match=message):
        Copy(make)


MPE = {
    "simple_spread_v3": ((0, 0, 0), (0, 0, 0)),
    "simple_speaker_listener_v4": ((0, 1), (0, 0)),
    "simple_tag_v3": ((0, 0, 0, 1), (0, 0, 0, 1)),
    "simple_adversary_v3": ((0, 1, 1), (0, 1, 1)),
    "simple_world_comm_v3": ((0, 1, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1)),
}


@pytest.mark.parametrize("name", MPE)
@pytest.mark.parametrize("continuous", [False, True])
def test_particle_worlds_say_what_they_say_without_us(name, continuous):
    pytest.importorskip("mpe2")
    factory = resolve(f"pettingzoo:mpe2.{name}", continuous_actions=continuous)
    copy, alone = Copy(factory), factory()
    assert (copy.facts.kinds, copy.facts.teams) == MPE[name]
    assert copy.facts.horizon == 25
    out = record(copy)
    copy.reset(11, out)
    alone.reset(seed=11)
    rng = np.random.default_rng(0)
    for t in range(25):
        if continuous:
            share = rng.integers(0, 257, (len(copy.agents), copy.facts.num_actions)).astype(np.float32) / 256
            theirs = {a: share[i, : copy.takers[i].size] for i, a in enumerate(copy.agents)}
            action = 2 * share - 1  # from -1 to 1 as Marlet has it, exactly
        else:
            action = np.array([rng.integers(taker.size) for taker in copy.takers])
            theirs = dict(zip(copy.agents, action.tolist(), strict=True))
        over = copy.step(action, out)
        obs, reward, _, _, _ = alone.step(theirs)
        for i, agent in enumerate(copy.agents):
            np.testing.assert_array_equal(out["obs"][i, : len(obs[agent])], obs[agent])
            assert out["reward"][i] == np.float32(reward[agent])
        np.testing.assert_array_equal(out["state"], alone.state())
        assert over == (t == 24)
    assert out["truncated"]
    assert out["alive"].all()
