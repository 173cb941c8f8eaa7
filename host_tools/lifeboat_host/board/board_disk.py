"""A disk behind a connected board, for everything that works on a disk of the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.board.agent import Agent
from lifeboat_host.board.link import Link
from lifeboat_host.disk.disk import Disk

_PARCEL = 16384  # as much as a board takes at once
_LOOK = 4 << 20  # looked through at a time: seconds, over SPI


class BoardDisk(Disk):
    """path: the board's name of the disk. Made by open_disks() and by `attached`."""

    local = False

    def __init__(self, agent: Agent, about: dict[str, Any], write: bool) -> None:
        self.path = Path(about["disk"])
        self.agent = agent
        self._name: str = about["disk"]
        self._may_write = write
        self.lba_size = int(about["lba_size"])
        self.size = int(about["sectors"]) * self.lba_size
        if self.lba_size not in (512, 4096) or not self.size:
            raise LifeboatError(
                "disk-geometry",
                f"{self.path}: sectors of {self.lba_size} bytes",
                "disks have sectors of 512 or 4096 bytes",
            )

    def __exit__(self, *_: object) -> None:
        pass  # the link is not ours

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises LifeboatError disk-read, and the link's."""
        if offset < 0 or offset + size > self.size:
            raise LifeboatError(
                "disk-read", f"{self.path}, offset 0x{offset:x}: the disk ends here"
            )
        first, last = offset // self.lba_size, -(-(offset + size) // self.lba_size)
        try:
            data = self.agent.receive(
                "disk_read", (self._name, first, last - first), (last - first) * self.lba_size
            )
        except LifeboatError as error:
            raise self._failed("disk-read", offset, error) from None
        start = offset - first * self.lba_size
        return data[start : start + size]

    def allow(self, ranges: Sequence[tuple[int, int]]) -> None:
        """As for a disk of the host; the board refuses all other writes, too."""
        for start, end in ranges:
            self._check_whole(start, end - start)
        super().allow(ranges)
        windows = [
            [start // self.lba_size, (end - start) // self.lba_size]
            for start, end in self._allowed
            if end > start
        ]
        self.agent.call("disk_allow", self._name, windows)

    def write(self, offset: int, data: bytes) -> None:
        """Whole sectors, only where allow() said so. Raises LifeboatError disk-write."""
        self._check_whole(offset, len(data))
        self.check_allowed(offset, len(data))
        if not self._may_write:
            raise LifeboatError("disk-write", f"{self.path}: opened for reading only")
        parcels = [
            (at // self.lba_size, lambda at=at: bytes(data[at : at + _PARCEL]))
            for at in range(0, len(data), _PARCEL)
        ]
        try:
            self.agent.send("disk_write", (self._name, offset // self.lba_size), parcels)
        except LifeboatError as error:
            raise self._failed("disk-write", offset, error) from None

    def _check_whole(self, offset: int, size: int) -> None:
        if offset % self.lba_size or size % self.lba_size:
            raise LifeboatError(
                "disk-write",
                f"{self.path}: bytes {offset} to {offset + size - 1} are no whole sectors",
                "this is a fault in lifeboat; report it",
            )

    def flush(self) -> None:
        """All writes are on the medium."""
        try:
            self.agent.call("disk_flush", self._name)
        except LifeboatError as error:
            raise self._failed("disk-write", 0, error) from None

    def first_nonzero(self, start: int, end: int, progress: Progress | None = None) -> int | None:
        """Offset of the first byte in [start, end) that is not zero; the board looks for it."""
        at = start - start % self.lba_size
        while at < end:
            stop = min(at + _LOOK, -(-end // self.lba_size) * self.lba_size)
            found: int | None = self.agent.call(
                "disk_first_nonzero",
                self._name,
                at // self.lba_size,
                (stop - at) // self.lba_size,
            )
            if found is not None:
                if not at <= found * self.lba_size < stop:
                    raise self.agent.link.garbled(f"LBA {found} for bytes {at} to {stop}")
                at = found * self.lba_size
                low, high = max(at, start), min(at + self.lba_size, end)
                data = self.read(low, high - low).lstrip(b"\0")
                if data:
                    return high - len(data)
                stop = at + self.lba_size  # the sector's rest does not belong to the range
            at = stop
            if progress:
                progress(min(at, end) - start, end - start)
        return None

    # The board's code for what its disk did is told in the message; the link's codes stay.
    def _failed(self, code: str, offset: int, error: LifeboatError) -> LifeboatError:
        if error.code.startswith("link-"):
            return error
        where = f"{self.path}, offset 0x{offset:x}"
        return LifeboatError(code, f"{where}: {error.message}", error.hint)


def attached(agent: Agent, names: Sequence[str] = (), write: bool = False) -> list[BoardDisk]:
    """The board's disks of these names, in that order; all that work when there are no names.

    Raises LifeboatError: disk-open (no such disk, or it fails), disk-none, disk-geometry.
    """
    found = {about["disk"]: about for about in agent.call("disks")}
    for name in names:
        if name not in found or "error" in found[name]:
            why = found[name]["error"] if name in found else "there is no such disk"
            raise LifeboatError(
                "disk-open", f"{name}: {why}", f"disks of this board: {', '.join(found) or 'none'}"
            )
    if len(set(names)) < len(names):
        raise LifeboatError("disk-twice", "the same disk is named twice", "name each disk once")
    chosen = [found[name] for name in names] or [a for a in found.values() if "error" not in a]
    if not chosen:
        why = ", ".join(f"{about['disk']} says {about['error']}" for about in found.values())
        raise LifeboatError(
            "disk-none",
            f"{agent.link.port}: the board has no disk that works{': ' if why else ''}{why}",
            "attach one, check cable and power",
        )
    return [BoardDisk(agent, about, write) for about in chosen]


@contextmanager
def open_disks(port: str, names: Sequence[str], write: bool = False) -> Iterator[list[BoardDisk]]:
    """The disks of the board at that port, as attached() gives them, for as long as it lasts."""
    with Link(port) as link:
        yield attached(Agent(link), names, write)
