"""What is done to a connected board: flash it, verify it, reset it, put it to the test.

Every step looks first at what is there already, so that after a broken connection the same
command goes on where it was. Nothing here prints or asks: cli_provision does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.board.agent import Agent
from lifeboat_host.board.remembered import Remembered
from lifeboat_host.model import image
from lifeboat_host.model.formats import Manifest
from lifeboat_host.model.image import Image
from lifeboat_host.ui import report_table

POWER_ON_S = 600  # with a whole recovery and a whole backup, over SPI
_PATIENT_S = 3600  # all copies of all members
_LOOK = 1 << 20  # bytes that the board compares between two signs of life
_TRIES = 3
SHAKY = ("link-garbled", "link-timeout")
_HOLDING = ("level", "created", "mended")  # states of members with the backup of the code


@dataclass(frozen=True)
class Code:
    """An image file, and its manifest."""

    image: Image
    manifest: Manifest

    def block(self, number: int) -> bytes:
        size = self.manifest.block_size
        return self.image.read(number * size, size)

    def check(self, progress: Progress | None = None) -> None:
        """Raises LifeboatError image-damaged unless every block is as the manifest says."""
        bad = image.damaged_blocks(self.image, self.manifest, progress)
        if bad:
            raise LifeboatError(
                "image-damaged",
                f"{self.image.path}: {len(bad)} of {self.manifest.block_count} blocks are not as "
                f"the manifest says, the first at offset 0x{bad[0].offset:x}",
                "build the image again, or copy it again: nothing was sent",
            )


@contextmanager
def opened(path: Path) -> Iterator[Code]:
    """The code in an image file. Raises LifeboatError: image-read, manifest-*."""
    with Image(path) as file:
        yield Code(file, file.manifest())


def looked_through(agent: Agent, blocks: int, progress: Progress | None = None) -> list[int]:
    """The blocks of the flash that differ from the manifest that the board was given."""
    return _in_steps(agent, "compare", (), blocks, progress)


def _in_steps(
    agent: Agent, name: str, args: Sequence[Any], blocks: int, progress: Progress | None
) -> list[int]:
    step = max(1, _LOOK // agent.block_size)
    bad: list[int] = []
    for first in range(0, blocks, step):
        found = agent.call(name, *args, first, step)
        if any(not first <= block < first + step for block in found):
            raise agent.link.garbled(f"blocks {found} of {step} from {first} on")
        bad += found
        if progress:
            progress(min(first + step, blocks), blocks)
    return bad


# --- code ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Present:
    """What is in the code flash: about is None when it holds no manifest for this board, and
    then `why` says what is there. bad: blocks that are not as the manifest says."""

    about: dict[str, Any] | None
    why: str = ""
    bad: list[int] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        return self.about is not None and bool(self.about["blank"]) and not self.bad

    def __str__(self) -> str:
        if self.about is None:
            return f"none ({self.why})"
        return f"{self.about['product']} {self.about['version']}, build {self.about['build']}"


def present(agent: Agent, progress: Progress | None = None) -> Present:
    """What is in the flash, every block read. Raises LifeboatError flash-failed, link-*."""
    found = described(agent)
    if found.about is None:
        return found
    blocks = int(found.about["blocks"])
    return Present(found.about, "", looked_through(agent, blocks, progress))


def described(agent: Agent) -> Present:
    """What the manifest in flash says; no block is read."""
    try:
        return Present(agent.call("code"))
    except LifeboatError as error:
        if not error.code.startswith("manifest-"):
            raise
        return Present(None, error.code)


def has_memory(code: Code, memory: Remembered) -> bool:
    """Whether the board has a memory when that code is in its flash."""
    if not memory.blocks:
        return memory.state != "none"
    return code.manifest.memory_blocks == memory.blocks


def losses(agent: Agent, code: Code, before: Present, memory: Remembered) -> list[str]:
    """What is lost, besides the code in flash, when that code replaces it; a line each."""
    new, end = code.manifest, agent.flash_size // agent.block_size
    lines = []
    # The blocks at the end of the flash that are lifeboat's now, and those that it would take.
    ours: set[int] = set()
    if before.about:
        ours |= _tail(before.about.get("memory", 0), before.about.get("manifest", 1), end)
        if not before.about["blank"]:
            lines.append(
                f"  block {end - 1}: what stands behind the manifest in flash is erased; "
                "it may be a boot loader's environment"
            )
    if memory.state == "ok" and memory.blocks:
        ours |= set(range(end - 1 - memory.blocks, end - 1))
    wanted = _tail(new.memory_blocks, new.manifest_blocks, end)
    first = max(0, end - len(wanted))
    used = agent.call_if_known("used", first, end - first) or []
    strange = sorted((wanted & set(used)) - ours)
    if strange:
        lines.append(
            f"  {report_table.spans([block, 1] for block in strange)}: what stands there is "
            "neither manifest nor memory, and is erased"
        )
    if memory.state == "ok" and memory.blocks and not has_memory(code, memory):
        own = f"its set {memory.set_id} ({memory.disks})" if memory.set_id else "no set"
        lines.append(
            "  the image has no room for the controller's memory where it is: "
            f"{own} and {len(memory.builds)} known builds are lost to it"
        )
    return lines


def _tail(memory_blocks: int, manifest_blocks: int, end: int) -> set[int]:
    """The blocks of a flash of `end` blocks that manifest and memory take."""
    return set(range(max(0, end - memory_blocks - max(1, manifest_blocks)), end))


def differing(agent: Agent, code: Code, progress: Progress | None = None) -> list[int]:
    """The blocks that the board would need; the manifest block counts when it does, too."""
    before = described(agent)
    offered = agent.offer(code.manifest.raw)
    bad = looked_through(agent, code.manifest.block_count, progress)
    same = before.about and (before.about["crc"], before.about["blank"]) == (offered["crc"], True)
    return bad if same else [*bad, agent.flash_size // agent.block_size - 1]


def flash(agent: Agent, code: Code, progress: Progress | None = None) -> dict[str, Any]:
    """Bring the code into the flash, only blocks that differ, the manifest last.

    A line that loses bytes is tried again, and only what is still missing is sent.
    """
    began = time.monotonic()
    sent = 0
    for left in reversed(range(_TRIES)):
        try:
            agent.offer(code.manifest.raw)
            bad = looked_through(agent, code.manifest.block_count)
            parcels = [(block, lambda block=block: code.block(block)) for block in bad]
            sent += agent.send("blocks", (), parcels, progress)
            written = bool(agent.call("finish"))
            break
        except LifeboatError as error:
            if error.code not in SHAKY or not left:
                raise
            agent.start()
    return {
        "blocks_sent": sent,
        "bytes": sent * agent.block_size,
        "manifest_written": written,
        "seconds": round(time.monotonic() - began, 2),
    }


# --- backups -------------------------------------------------------------------------------


def holding(found: dict[str, Any]) -> list[str]:
    """The disks with the backup of the code in flash. found: a report, or what `members` says."""
    return [member["disk"] for member in found["members"] if member["state"] in _HOLDING]


def protected(found: dict[str, Any], disks: Iterable[str] = ()) -> bool:
    """Whether a member holds the backup of the code in flash, all of `disks` do, and no member
    is behind or missing. found: as for holding()."""
    held = holding(found)
    states = {member["state"] for member in found["members"]}
    missing = any(code == "member-missing" for code, _, _ in found["reasons"])
    return bool(held) and set(disks) <= set(held) and "stale" not in states and not missing


def verify_copies(agent: Agent, progress: Progress | None = None) -> dict[str, Any]:
    """Every committed copy of every member, each with its damaged blocks under `bad`."""
    answer: dict[str, Any] = agent.call("members")
    copies = [
        (member["disk"], copy)
        for member in answer["members"]
        for copy in member["copies"]
        if "error" not in copy
    ]
    total = sum(copy["blocks"] for _, copy in copies)
    done = 0
    for disk, copy in copies:
        # Bound here: the bar belongs to all copies together.
        def step(now: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + now, total)

        copy["bad"] = _in_steps(agent, "check_copy", (disk, copy["slot"]), copy["blocks"], step)
        done += copy["blocks"]
    return answer


def power_on(agent: Agent, unlimited: bool = False) -> dict[str, Any]:
    """What a power-on does, without one; its report.

    unlimited: all copies are read, however long it takes, and what failed is tried again.
    """
    report: dict[str, Any]
    try:
        if unlimited:
            report = agent.call("power_on", True, timeout=_PATIENT_S)
            return report
    except LifeboatError as error:  # a boot stage from before the memory knows no limit
        if error.code != "link-device" or "TypeError" not in error.message:
            raise
    report = agent.call("power_on", timeout=POWER_ON_S)
    return report


def reset(agent: Agent) -> dict[str, Any]:
    """Reset the board; its report. Afterwards the agent has to be started anew."""
    return agent.link.reset(POWER_ON_S)


def drill(agent: Agent, blocks: int) -> dict[str, Any]:
    """Damage a block on purpose and see the board mend it; its report.

    The board itself refuses unless every member holds a good copy of that block.
    Raises LifeboatError drill when it was not mended.
    """
    agent.start()
    block = random.randrange(blocks)
    agent.call("drill", block, timeout=POWER_ON_S)
    report = reset(agent)
    repaired = [entry[:2] for entry in report["repaired"]]
    if report["verdict"] != "RUN" or repaired != [[block, 1]]:
        raise LifeboatError(
            "drill",
            f"block {block} was damaged on purpose, and the board says {report['verdict']}, "
            f"repaired {report['repaired']}",
            "look at the reasons in its report: lifeboat status",
        )
    return {"block": block, "from": report["repaired"][0][2], "report": report}
