"""What the controller of a connected board remembers, and which sets of disks it sees.

The board decides and writes; this asks it, and says it in words. docs/format.md, section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lifeboat_host.board.agent import Agent
from lifeboat_host.model.keyset import ROLES
from lifeboat_host.model.reasons import ADVICE

# States of members that the controller uses as its own.
_OWN = ("level", "created", "mended", "stale")
# The same, and members that it only reads.
OF_OWN_SET = (*_OWN, "new", "claimed")

_STATES = {
    "ok": "ok",
    "empty": "empty: not yet begun",
    "lost": "lost: neither mirror can be read",
    "none": "none",
}


@dataclass(frozen=True)
class Member:
    """A region that the controller remembers as its own."""

    region: str
    lba: int
    sectors: int
    index: int
    disk: str  # what it was called then; for people


@dataclass(frozen=True)
class Owner:
    """Whose code a signed board runs. keys: (key id, roles as bits of format.md, section 7)."""

    serial: int | None
    keys: tuple[tuple[str, int], ...]
    locked: bool
    answers: int

    @property
    def rows(self) -> list[tuple[str, str]]:
        out = [("key set", "unknown" if self.serial is None else str(self.serial))]
        for key, roles in self.keys:
            names = [name for name, bit in ROLES.items() if roles & bit]
            out.append(("", f"key {key}: {', '.join(names) or 'no role that is known'}"))
        console = "locked: lifeboat unlock" if self.locked else "open"
        return [*out, ("console", console)]

    def to_json(self) -> dict[str, Any]:
        return {
            "serial": self.serial,
            "keys": [{"key": key, "roles": roles} for key, roles in self.keys],
            "locked": self.locked,
            "answers": self.answers,
        }


@dataclass(frozen=True)
class Remembered:
    """The memory, as the board tells it.

    state: ok, empty, lost or none; why: a reason code, or None; blocks: of the code flash that it
    takes, 0 when it has a place of its own or none; set_id: 32 hex digits, or None; builds: the
    newest first; failed: (block, how often its repair was tried in vain); owner: None on an
    unsigned board.
    """

    state: str
    why: str | None
    blocks: int = 0
    set_id: str | None = None
    members: tuple[Member, ...] = ()
    builds: tuple[dict[str, Any], ...] = ()
    rejected: tuple[str, ...] = ()
    failed: tuple[tuple[int, int], ...] = ()
    counter: int = 0
    damaged: bool = False
    owner: Owner | None = None

    @property
    def text(self) -> str:
        """Its state, and why, in words."""
        text = _STATES.get(self.state, self.state)
        if self.why:
            advice = ADVICE.get(self.why, "")
            text += f" ({self.why}{': ' if advice else ''}{advice})"
        return text

    @property
    def disks(self) -> str:
        """The names of its disks, for a sentence."""
        return ", ".join(member.disk or "?" for member in self.members) or "no disks"

    @property
    def regions(self) -> set[str]:
        return {member.region for member in self.members}


@dataclass(frozen=True)
class DiskSet:
    """The members of one set that are here, as the board's `members` tells them."""

    set_id: str
    members: tuple[dict[str, Any], ...]

    @property
    def disks(self) -> str:
        return ", ".join(member["disk"] for member in self.members)

    @property
    def new(self) -> list[str]:
        """Disks with a region that the memory does not know, though it knows the set."""
        used = self._used
        return [m["disk"] for m in self.members if m["state"] == "new" and m["region"] not in used]

    @property
    def copied(self) -> list[str]:
        """Disks that say they are one that the controller uses: only one of these can be."""
        used = self._used
        return [m["disk"] for m in self.members if m["state"] == "new" and m["region"] in used]

    @property
    def _used(self) -> set[str]:
        return {member["region"] for member in self.members if member["state"] in _OWN}


def read(agent: Agent) -> Remembered:
    """What the board remembers; nothing when its boot stage is older than the memory."""
    told = agent.call_if_known("memory")
    return Remembered("none", "memory-none") if told is None else parsed(told)


def write(
    agent: Agent, set_id: str, gone: Iterable[str] = (), lbas: Sequence[int] = ()
) -> Remembered:
    """Have the regions of a set that are here remembered, and those of absent disks kept.

    gone: region ids that are the controller's no more; without any left no set is remembered.
    Raises LifeboatError memory-none, memory-place, memory-failed, memory-full, set-other.
    """
    return parsed(agent.call("remember", set_id, sorted(gone), list(lbas)))


def parsed(told: dict[str, Any]) -> Remembered:
    """What the board answers to `memory`, and to what changes it."""
    return Remembered(
        told["state"],
        told["why"],
        told["blocks"],
        told["set"],
        tuple(
            Member(m["region"], m["lba"], m["sectors"], m["index"], m["disk"])
            for m in told["members"]
        ),
        tuple(reversed(told["builds"])),
        tuple(told["rejected"]),
        tuple((block, count) for block, count in told["failed"]),
        told["counter"],
        told["damaged"],
        _owner(told.get("owner")),
    )


# A boot stage from before the keys does not tell.
def _owner(told: dict[str, Any] | None) -> Owner | None:
    if told is None:
        return None
    keys = tuple((key, roles) for key, roles in told["keys"])
    return Owner(told["serial"], keys, told["locked"], told["answers"])


def sets(found: dict[str, Any]) -> list[DiskSet]:
    """The sets that are here; found: what `members` says."""
    here: dict[str, list[dict[str, Any]]] = {}
    for member in found["members"]:
        if member.get("set") and member["state"] != "failed":
            here.setdefault(member["set"], []).append(member)
    return [DiskSet(set_id, tuple(members)) for set_id, members in here.items()]


def short(set_id: str, others: Iterable[str] = ()) -> str:
    """The first digits of a set id, as many as tell it from others."""
    count = 8
    while any(other != set_id and other[:count] == set_id[:count] for other in others):
        count += 4
    return set_id[:count]


def advice(memory: Remembered, here: Sequence[DiskSet]) -> dict[str, str]:
    """What to do about each set that is not, or not wholly, the controller's own, by its id."""
    ids = [one.set_id for one in here]
    told = {}
    for one in here:
        states = {member["state"] for member in one.members}
        command = f"lifeboat adopt {short(one.set_id, ids)}"
        if "foreign" in states and memory.state == "none":
            told[one.set_id] = f"only read: {ADVICE['set-unclear']}"
        elif "foreign" in states:
            told[one.set_id] = f"not this controller's: only read; if it is to be: {command}"
        elif one.new:
            told[one.set_id] = (
                f"{', '.join(one.new)} not remembered: only read; if it is to be a member: "
                f"{command}"
            )
        elif one.copied:
            told[one.set_id] = (
                f"{', '.join(one.copied)} is a copy of another disk of the set: only read; "
                "take it out"
            )
        elif "claimed" in states:
            told[one.set_id] = ADVICE["region-claimed"]
        elif memory.state != "none" and memory.set_id is None and states & set(_OWN):
            told[one.set_id] = "becomes this controller's own at the next power-on"
    return told


def _present(memory: Remembered, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The members of the remembered set that are here, by their regions' ids. Of several that say
    they are the same one, that which the controller uses."""
    here: dict[str, dict[str, Any]] = {}
    for member in found["members"]:
        region = member.get("region")
        if region and member.get("set") == memory.set_id:
            if region not in here or member["state"] in _OWN:
                here[region] = member
    return here


def rows(memory: Remembered, found: dict[str, Any]) -> list[tuple[str, str]]:
    """The memory and the sets as lines of a table for people."""
    out = [("memory", memory.text)]
    if memory.set_id:
        out.append(("own set", memory.set_id))
    present = _present(memory, found)
    for member in memory.members:
        last = member.lba + member.sectors - 1
        at = present.get(member.region)
        state = f"{at['disk']}, {at['state']}" if at else f"missing ({member.disk})"
        out.append((f"  member {member.index}", f"{state}, LBA {member.lba} to {last}"))
    for i, build in enumerate(memory.builds):
        text = f"{build['version']}, build {build['build'][:12]}"
        if build["counter"]:
            text += f", counter {build['counter']}"
        out.append(("" if i else "known builds", text))
    for i, rejected in enumerate(memory.rejected):
        out.append(("" if i else "rejected", f"build {rejected[:12]}"))
    if memory.failed:
        failed = ", ".join(f"{block} ({count} times)" for block, count in memory.failed)
        out.append(("failed repairs", f"{failed}; lifeboat recover tries again"))
    if memory.counter:
        out.append(("least counter", str(memory.counter)))
    if memory.owner:
        out += memory.owner.rows
    if memory.damaged:
        out.append(("", "a mirror is damaged: healed at a power-on, or by the scrubber"))
    here = sets(found)
    steps = advice(memory, here)
    for one in here:
        if one.set_id in steps:
            out.append((f"set {short(one.set_id)}", f"{one.disks}: {steps[one.set_id]}"))
    return out


def to_json(memory: Remembered, found: dict[str, Any]) -> dict[str, Any]:
    """The keys `memory` and `sets` of --json."""
    present = _present(memory, found)
    here = sets(found)
    steps = advice(memory, here)

    def member(one: Member) -> dict[str, Any]:
        at = present.get(one.region)
        return {
            "region": one.region,
            "lba": one.lba,
            "sectors": one.sectors,
            "index": one.index,
            "name": one.disk,
            "disk": at and at["disk"],
            "state": at["state"] if at else "missing",
        }

    return {
        "memory": {
            "state": memory.state,
            "why": memory.why,
            "blocks": memory.blocks,
            "set": memory.set_id,
            "members": [member(one) for one in memory.members],
            "builds": list(memory.builds),
            "rejected": list(memory.rejected),
            "failed": [list(one) for one in memory.failed],
            "counter": memory.counter,
            "damaged": memory.damaged,
            "owner": memory.owner and memory.owner.to_json(),
        },
        "sets": [
            {
                "set": one.set_id,
                "own": one.set_id == memory.set_id,
                "disks": [member["disk"] for member in one.members],
                "next": steps.get(one.set_id, ""),
            }
            for one in here
        ],
    }
