"""A reservation, step by step. Nothing here asks or prints: who has consent calls the next step.

    session = Session(Wish(size=32 << 20))
    session.propose(disks)             look at the disks: where the regions would go
    session.consent([(2048, 4095)])    what is not zero there, and may be lost
    session.name_files(Path("undo"))
    with session.saved():              recovery files of all that will be overwritten
        for proposal in session.proposals:
            session.write(proposal)

A disk that can't have a region has a refusal instead of a place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.model.formats import SLOT_SIZE_MIN, RegionHeader
from lifeboat_host.reserve import disk_map, recovery_file
from lifeboat_host.reserve.disk_map import DiskMap
from lifeboat_host.reserve.place import AUTO, Place, Way, carry_out, choose

Lbas = tuple[int, int]  # first and last
Bar = Callable[[str], AbstractContextManager[Progress]]


@contextmanager
def _no_bar(_: str) -> Iterator[Progress]:
    yield lambda done, total: None


@dataclass(frozen=True)
class Wish:
    """What a person wants of each disk.

    size: bytes, None: what `flash` needs. flash: (product or "", size of the flash, block size) of
    the board that it is for; None: any that fits.
    """

    where: Way = AUTO
    size: int | None = None
    slots: int = 2
    flash: tuple[str, int, int] | None = None

    @property
    def lbas(self) -> list[int]:
        """The LBA that is wanted, if one is: there may be a region already."""
        return [self.where] if isinstance(self.where, int) else []

    def numbers(self) -> tuple[int, dict[str, Any]]:
        """The region's size, and what region.new_headers() wants to know."""
        new: dict[str, Any] = {"slots": self.slots, "need": SLOT_SIZE_MIN}
        if self.flash:
            product, flash_size, block_size = self.flash
            new |= {
                "need": region.slot_size_for(flash_size, block_size),
                "block_size": block_size,
                "manifest_area": region.manifest_area_for(flash_size, block_size),
                "product": product,
            }
        block_size = new.get("block_size", region.BLOCK_SIZE_MAX)
        return self.size or region.size_for(new["need"], self.slots, block_size), new


@dataclass
class Proposal:
    """What would be done with a disk: a place with the region's header, or a refusal.

    file: its recovery file, once it is saved.
    """

    disk: Disk
    found: DiskMap
    place: Place | None = None
    header: RegionHeader | None = None
    refusal: LifeboatError | None = None
    file: Path | None = None

    @property
    def ready(self) -> tuple[Place, RegionHeader]:
        """Raises the refusal."""
        if self.refusal:
            raise self.refusal
        assert self.place and self.header
        return self.place, self.header

    def to_json(self) -> dict[str, Any]:
        place = self.place
        proposal = place and {
            "first": place.first,
            "last": place.last,
            "how": place.how,
            "changes_table": bool(place.table),
            "overwrites": place.asked,
            "notes": place.notes,
        }
        found = self.found
        return {
            "disk": str(self.disk.path),
            "sectors": found.sectors,
            "lba_size": found.lba_size,
            "table": found.table,
            "pieces": [asdict(piece) for piece in found.pieces],
            "signatures": [asdict(claim) for claim in found.claims],
            "unknown": found.unknown,
            "proposal": proposal,
            "refused": self.refusal and self.refusal.to_json(),
        }

    def made(self) -> dict[str, Any]:
        """The new region, for --json."""
        place, header = self.ready
        return {**describe(self.disk, header), "how": place.how, "undo": str(self.file)}


@contextmanager
def _refusing(proposal: Proposal) -> Iterator[None]:
    try:
        yield
    except LifeboatError as error:
        proposal.place, proposal.refusal = None, error


def describe(disk: Disk, header: RegionHeader) -> dict[str, Any]:
    """A region header for --json."""
    fields = {
        key: value.hex() if isinstance(value, bytes) else value
        for key, value in asdict(header).items()
        if key != "directory"  # `region inspect` has what it says
    }
    return {"disk": str(disk.path), **fields}


class Session:
    """The reservation of regions on several disks; bar: shows how far reading them has come."""

    def __init__(self, wish: Wish, bar: Bar = _no_bar) -> None:
        self.wish = wish
        self.proposals: list[Proposal] = []
        self._bar = bar
        self._unused: list[Path] = []  # recovery files of disks that are not begun

    def propose(self, disks: Sequence[Disk]) -> None:
        """Regions of a new set, one for each disk; a disk that can't have one is refused."""
        size, new = self.wish.numbers()
        found = [self._look(disk, size) for disk in disks]
        for proposal in found:
            place = proposal.place
            if place:
                with _refusing(proposal):
                    at = [(place.first, place.sectors)]
                    (proposal.header,) = region.new_headers([proposal.disk], at, **new)
        places = [(p.place.first, p.place.sectors) for p in found if p.place]
        if len(places) == len(found):
            for proposal, header in zip(found, region.new_headers(disks, places, **new)):
                proposal.header = header

    def join(self, disk: Disk, member: Disk, index: int | None = None) -> None:
        """A region that becomes a member of the set of another disk; index: which one."""
        joined = region.find(member, self.wish.lbas).header
        proposal = self._look(disk, joined.size)
        place = proposal.place
        if place:
            with _refusing(proposal):
                proposal.header = region.joining(joined, disk, place.first, index, place.sectors)

    def _look(self, disk: Disk, size: int) -> Proposal:
        with self._bar(f"looking at {disk.path.name}") as bar:
            proposal = Proposal(disk, disk_map.look(disk, self.wish.lbas, bar))
        self.proposals.append(proposal)
        with _refusing(proposal), self._bar(f"reading {disk.path.name}") as bar:
            proposal.place = choose(disk, proposal.found, self.wish.where, size, bar)
        return proposal

    @property
    def needs(self) -> int:
        """How many ranges have to be agreed to."""
        return sum(bool(p.place and p.place.asked) for p in self.proposals)

    def consent(
        self, given: Sequence[Lbas], ask: Callable[[Disk, Lbas], bool] | None = None
    ) -> None:
        """Raise LifeboatError overwrite unless a person has named the sectors that are not zero.

        given: ranges, in the order of the disks that need one; ask: asks for one that is missing.
        """
        left = list(given)
        for proposal in self.proposals:
            place, _ = proposal.ready
            if not place.asked:
                continue
            first, last = place.asked
            said = left.pop(0) if left else None
            if said is None and ask and ask(proposal.disk, place.asked):
                said = place.asked
            if not said or not place.first <= said[0] <= first <= last <= said[1] <= place.last:
                raise LifeboatError(
                    "overwrite",
                    f"{proposal.disk.path}: LBA {first}-{last} may be somebody's, and nobody has "
                    "agreed to overwrite them; nothing was changed",
                    f"look at them; if they may be lost, give --overwrite {first}-{last}",
                )
        if left:
            raise LifeboatError(
                "overwrite",
                f"--overwrite {left[0][0]}-{left[0][1]}: no disk needs that; nothing was changed",
                "give it once for each disk that lifeboat region plan says it for",
            )

    def name_files(self, path: Path) -> list[Path]:
        """Choose the recovery files: `path` is one for one disk, or a folder.

        Raises LifeboatError undo-write.
        """
        if path.is_dir():
            for p in self.proposals:
                p.file = path / recovery_file.file_name(p.disk, p.ready[1].region_id)
        elif len(self.proposals) == 1:
            self.proposals[0].file = path
        else:
            raise LifeboatError(
                "undo-write", f"{path}: several disks need several files", "name a folder"
            )
        files = [p.file for p in self.proposals if p.file]
        for file in files:
            if file.exists():
                raise LifeboatError("undo-write", f"{file}: exists already", "name another file")
        return files

    @contextmanager
    def saved(self) -> Iterator[None]:
        """While the recovery files are there; those of disks that were not written go again.

        Raises LifeboatError: disk-changed (since propose()), undo-write.
        """
        taken = []
        for p in self.proposals:
            place, header = p.ready
            with self._bar(f"saving {p.disk.path.name}") as bar:
                taken.append(recovery_file.take(p.disk, place, header, bar))
        for p, old in zip(self.proposals, taken):
            self._check_unchanged(p, old)
        try:
            for p, old in zip(self.proposals, taken):
                assert p.file
                recovery_file.save(old, p.file)
                self._unused.append(p.file)
            yield
        finally:
            while self._unused:
                self._unused.pop().unlink()

    def _check_unchanged(self, proposal: Proposal, old: recovery_file.Undo) -> None:
        """Raise disk-changed unless what will be overwritten is what consent was given for."""
        disk, found = proposal.disk, proposal.found
        place, _ = proposal.ready
        with self._bar(f"looking again at {disk.path.name}") as bar:
            disk_map.look_again(disk, found, self.wish.lbas, bar)
        # A new GPT goes where nothing is; the sectors of one that is there are part of the map.
        if old.used("headers", "body") != place.used or not found.gpt and old.used("table"):
            raise disk_map.changed(disk)

    def write(self, proposal: Proposal) -> None:
        """Make the region of a disk, inside saved(). Raises what carry_out() raises."""
        where, header = proposal.ready
        assert proposal.file
        self._unused.remove(proposal.file)  # from here on it is needed
        carry_out(proposal.disk, where, header)
