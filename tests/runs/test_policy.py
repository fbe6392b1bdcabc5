"""A policy that is given what it cannot act on says so, and acts on what it was trained on."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from marlet.algorithms.policies import ippo
from marlet.errors import MarletError
from marlet.runs.policy import Policy
from marlet.types import Spec

SPEC = Spec(num_agents=2, num_actions=3, obs_shape=(4,), state_size=1)
ONES = np.ones((2, 4), np.float32)
SHUT = np.array([[False, False, True], [False, False, False]])


def policy_of(spec):
    algorithm = ippo(hidden=(4,))
    return Policy(algorithm, algorithm.init(spec, key=jax.random.key(0)), spec)


@pytest.fixture(scope="module")
def policy():
    return policy_of(SPEC)


def named(rows):
    return dict(zip(SPEC.names, rows, strict=True))


@pytest.mark.parametrize("form", [np.asarray, named])
def test_what_it_cannot_act_on_is_refused(policy, form):
    with pytest.raises(MarletError, match="No action is available to 'agent_1'"):
        policy.act(form(ONES), available=form(SHUT))
    with pytest.raises(MarletError, match="observation of 'agent_1' is not finite"):
        policy.act(form(ONES * [[1], [np.nan]]))
    for width in (3, 5):
        with pytest.raises(MarletError, match=r"rows of 4.*environment it was trained on"):
            policy.act(form(np.ones((2, width))))
    with pytest.raises(MarletError, match=r"rows of 3.*environment it was trained on"):
        policy.act(form(ONES), available=form(SHUT[:, :2]))
    assert len(policy.act(form(ONES), available=form(np.ones((2, 3), bool)))) == 2


def test_who_is_gone_may_be_left_out(policy):
    assert policy.act({"agent_0": ONES[0]}, available={"agent_0": SHUT[0]}) == {"agent_0": 2}
    both = policy.act(named(ONES), available={"agent_0": SHUT[0]})  # of the other's actions nothing was said
    assert both["agent_0"] == 2


def test_agents_of_several_kinds_may_see_less():
    policy = policy_of(replace(SPEC, kinds=(0, 1)))
    shorter = policy.act({"agent_0": ONES[0], "agent_1": np.ones(3)})
    assert shorter == policy.act({"agent_0": ONES[0], "agent_1": np.float32([1, 1, 1, 0])})
