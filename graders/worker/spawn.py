"""What the oracle tells the fork server, and what it hears back; imports nothing heavy."""

from __future__ import annotations

import msgspec

from graders.worker.limits import Limits


class Spawn(msgspec.Struct):
    """Ask for one worker. Paths are absolute; ``stage`` holds the labs package it may import."""

    package: str
    stage: str
    scratch: str
    given: str
    shown_as: str
    level: str
    device: str
    threads: int
    limits: Limits
    read_only: list[str] = []


class Ended(msgspec.Struct):
    """How a worker ended: exit code, or minus the signal; ``reason`` names a limit it ran into."""

    code: int
    reason: str = ""
    peak_bytes: int = 0
