"""Defaults that an environment wants other than an algorithm's own, each found by a recorded search.

An algorithm that is named, and not made, is fitted to one of Marlet's own environments by what stands here; what a user sets
goes before. Each was searched with the environment's default options, and holds with others, too: with how many agents more
it is still the better one was not measured, where bench/search/environments.md does not say so.
"""

from collections.abc import Mapping
from typing import Any

OWN_NETWORKS = {"sharing": "own"}
"""So that what one agent learns is not in the way of what another has to."""

SUITED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "reference": {"maddpg": OWN_NETWORKS, "masac": OWN_NETWORKS, "matd3": OWN_NETWORKS},
    "speaker_listener": {"maddpg": OWN_NETWORKS, "masac": OWN_NETWORKS, "matd3": OWN_NETWORKS},
    "spread": {"qmix": {"mixer.size": 8, "mixer.hyper": 16}},
    "swarm": {"happo": {"clip": 0.05}},
}
"""By the environment's name and the algorithm's: options by their dotted names."""
