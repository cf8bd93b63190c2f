"""One thing that is not as declared, and the statements that put it right, and back. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Phase(enum.IntEnum):
    """When a change has its turn: nothing that runs is broken on the way, and row security comes last."""

    ROLE = enum.auto()
    FUNCTION = enum.auto()
    UNFORCE = enum.auto()  # where rows are to be filled in that row security would hide from their owner
    TENANT = enum.auto()  # the context of what follows, up to UNTENANT: one transaction
    COLUMN = enum.auto()
    UNTENANT = enum.auto()
    INDEX = enum.auto()
    BACKFILL = enum.auto()
    KEY = enum.auto()  # checked for new rows only, where there are many old ones
    VALIDATE = enum.auto()
    SETTLE = enum.auto()  # what the old rows were looked through for
    UNREFER = enum.auto()  # foreign keys that others replace, before what they refer to
    REPLACE = enum.auto()
    POLICY = enum.auto()
    GRANT = enum.auto()
    ENABLE = enum.auto()
    FORCE = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is done to an object, in a person's words.

    `back` makes the catalogue what it was; it may find any part of `forward` not done. Without `words` it is part
    of the change before it.
    """

    phase: Phase
    object: str
    words: str = ""
    forward: tuple[str, ...]
    back: tuple[str, ...] = ()
