"""Which cases there are, which of them are run, and what they are called.

    build-terminate-inside-a0         scenario, fault, moment, place

The place is one of the client's messages: `c0` the first COMMIT, `a0` the first statement outside transactions,
`z0` the last message, `p417` the one at 417 of 1000 parts of the way through all at which that moment exists.
Places stay right when smeta sends a message more or less.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.proxy import FLUSH, PARSE, QUERY, STARTUP, SYNC, TERMINATE, Message, Moment
from tests.chaos.scenarios import SCENARIOS, Scenario, scenario

SAMPLE = 210
SEED = 3
# Cases that were wrong once: always in the sample.
FOUND = (
    "all-term-sent-p500",
    "back-count-cut-before-z2",
    "back-count-cut-sent-z1",
    "back-count-int-answered-z1",
    "back-count-restart-sent-z2",
    "back-count-term-sent-z1",
    "back-count-terminate-answered-z2",
    "back-terminate-answered-c1",
    "build-swallow-inside-a0",
    "detach-cut-inside-a0",
    "detach-restart-sent-a0",
    "drop-int-sent-p446",
    "each-term-before-p137",
    "each-term-sent-c1",
    "reindex-terminate-inside-a0",
)


class Fault(StrEnum):
    """What happens to the client, its connection, or the server."""

    KILL = "kill"  # SIGKILL of the client
    TERM = "term"  # SIGTERM
    INT = "int"  # SIGINT
    TERMINATE = "terminate"  # pg_terminate_backend
    CUT = "cut"  # the connection breaks, both sides notice
    SWALLOW = "swallow"  # the connection breaks, the server does not notice
    RESTART = "restart"  # the server crashes and starts again


_KINDS = {
    Moment.BEFORE: (STARTUP, QUERY, PARSE, SYNC, TERMINATE),
    Moment.SENT: (STARTUP, QUERY, FLUSH, SYNC),
    Moment.ANSWERED: (STARTUP, QUERY, FLUSH, SYNC),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One disturbance."""

    scenario: Scenario
    fault: Fault
    moment: Moment
    place: str

    def __str__(self) -> str:
        return f"{self.scenario.name}-{self.fault}-{self.moment}-{self.place}"

    def point(self, messages: Sequence[Message]) -> Message:
        """The message it means, of those that the undisturbed run sent."""
        number = int(self.place[1:])
        match self.place[0]:
            case "c":
                return _nth([m for m in messages if m.commits], number)
            case "z":
                return messages[-1 - number]
            case "a":
                return _nth([m for m in messages if m.alone], number)
            case _:
                possible = _points(messages, self.fault, self.moment)
                return possible[number * len(possible) // 1000]


def _nth(messages: Sequence[Message], number: int) -> Message:
    return messages[number % len(messages)]


def parse(name: str) -> Case:
    """The case of that id."""
    head, fault, moment, place = name.rsplit("-", 3)
    return Case(scenario=scenario(head), fault=Fault(fault), moment=Moment(moment), place=place)


def _points(messages: Sequence[Message], fault: Fault, moment: Moment) -> list[Message]:
    """The messages at which a fault can happen at that moment."""
    found = [m for m in messages if m.kind in _KINDS[moment]]
    if fault is Fault.TERMINATE and moment is not Moment.ANSWERED:
        found = [m for m in found if m.kind != STARTUP]  # no process is known yet
    if fault in (Fault.TERM, Fault.INT):
        found = [m for m in found if m.kind != TERMINATE]  # it waits for no answer: it may be gone already
    return found


def sample(count: int = SAMPLE, seed: int = SEED) -> list[Case]:
    """So many different cases: those found wrong once, then each scenario and fault in turn, places drawn."""
    drawn = random.Random(seed)
    found = {name: parse(name) for name in FOUND}
    while len(found) < count:
        pairs = [(s, f) for s in SCENARIOS for f in Fault]
        drawn.shuffle(pairs)
        for each, fault in pairs:
            moment, place = drawn.choice([*_KINDS]), f"p{drawn.randrange(1000):03}"
            match drawn.randrange(4):
                case 0:
                    place = f"c{drawn.randrange(4)}"
                case 1 if each.blocked:
                    moment, place = Moment.INSIDE, "a0"
                case _:
                    pass
            case = Case(scenario=each, fault=fault, moment=moment, place=place)
            if len(found) < count:
                found.setdefault(str(case), case)
    return sorted(found.values(), key=str)


def every(messages: Mapping[str, Sequence[Message]]) -> Iterable[Case]:
    """All cases, from the messages of each scenario's undisturbed run."""
    for each in SCENARIOS:
        for fault in Fault:
            for moment in _KINDS:
                count = len(_points(messages[each.name], fault, moment))
                for index in range(count):
                    place = f"p{-(-index * 1000 // count):03}"
                    yield Case(scenario=each, fault=fault, moment=moment, place=place)
            if each.blocked:
                yield Case(scenario=each, fault=fault, moment=Moment.INSIDE, place="a0")
