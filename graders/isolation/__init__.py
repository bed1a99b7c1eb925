"""Walls around code that nobody has vouched for. See :mod:`graders.isolation.sandbox`."""
