"""Environments that the naming tests look up, and things that are none."""

from relay import Relay


def make_relay(deaths=(2, None, None)):
    return Relay(tuple(deaths))


class Worlds:
    relay = Relay


NOT_CALLABLE = 3
