"""Plays host environments with an algorithm: rollouts to learn from, and whole episodes to judge by."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool

from marlet.engine.evaluate import LONGEST, Scores
from marlet.engine.host import HostEnv
from marlet.types import Key, Memory, Rollout, Step, Transition, where

Act = Callable[[Memory, Step, Key], tuple[Memory, Array, Any]]
_forget = jax.jit(where)


def rollout(
    act: Act,
    env: HostEnv,
    now: Step,
    first: Bool[Array, " B"],
    memory: Memory,
    blank: Memory,
    length: int,
    *,
    key: Key,
) -> tuple[Step, Bool[Array, " B"], Memory, Rollout]:
    """T = `length` steps of all copies: the host's counterpart of the compiled rollout.

    `act(memory, step, key)` is compiled by the caller and gives (memory, action, extra). Where an episode ends, the
    memory becomes `blank` and the next transition is `first`. Arrays of the rollout are numpy and lead with `T B`.
    """
    began = memory
    parts = []
    for step_key in list(jax.random.split(key, length)):
        memory, action, extra = act(memory, now, step_key)
        chosen: Any = np.asarray(action)
        next, after = env.step(chosen)
        parts.append((now, chosen, next, first, extra))
        now, first = after, next.over
        if first.any():
            memory = _forget(first, blank, memory)
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *parts)
    now_, action, next, first_, extra = stacked
    played = Transition(now=now_, action=action, next=next, first=first_, extra=extra)
    return now, first, memory, Rollout(transitions=played, memory=began)


def play_episodes(act: Act, env: HostEnv, blank: Memory, episodes: int, *, seed: int, key: Key) -> Scores:
    """The scores of whole episodes: the host's counterpart of the compiled `play_episodes`.

    They are played in rounds, in each of which every copy plays one to its end: to count whichever end first would
    favour short ones. Without a horizon in the environment's spec, episodes are cut off after `LONGEST` steps.
    """
    rounds = []
    score: Any
    length: Any
    solved: Any
    for episode in range(-(-episodes // env.copies)):
        now, memory, keys = env.reset(seed, episode), blank, jax.random.fold_in(key, episode)
        score, length = np.zeros((env.copies, env.spec.num_agents), np.float32), np.zeros(env.copies, np.int32)
        done, solved = np.zeros(env.copies, bool), np.zeros(env.copies, bool)
        for step in range(env.spec.horizon or LONGEST):
            memory, action, _ = act(memory, now, jax.random.fold_in(keys, step))
            next, now = env.step(np.asarray(action))
            # Copies whose episode is over play on in the next one, of which nothing counts.
            score, length = score + np.where(done[:, None], 0, next.reward), length + ~done
            solved |= ~done & next.over & ~next.truncated
            done |= next.over
            if done.all():
                break
        rounds.append(Scores(score=score, length=length, solved=solved))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:episodes], *rounds)
