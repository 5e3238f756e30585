"""Routing that no model made."""

from __future__ import annotations

from sim.routing import independent


def test_random_routing_does_not_know_the_length() -> None:
    long = independent(3, 50, 0.3, 0.6, 7)
    assert (independent(3, 20, 0.3, 0.6, 7) == long[..., :20]).all()
    assert abs(1 - independent(3, 4000, 0.3, 0.6, 7)[1:].mean((0, 2)) - [0.3, 0.6]).max() < 0.02
