"""What `lifeboat log --evidence` tells: the damage that repairs have replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import evidence, journal, region
from lifeboat_host.model.evidence import Evidence
from lifeboat_host.model.formats import Manifest, RegionHeader
from lifeboat_host.ui.output import Output

_REPAIRED = {"power-on": "the power-on", "scrub": "the scrubber"}


class Found:
    """The evidence of all disks, and the builds whose blocks may be met in it.

    lists: the entries of each disk that has a ring.
    """

    def __init__(self) -> None:
        self.lists: list[list[Evidence]] = []
        self._builds: dict[bytes, Manifest] = {}

    def add(self, disk: Disk, header: RegionHeader, output: Output) -> None:
        """Read a disk's region."""
        for slot in region.read_slots(disk, header):
            manifest = slot.manifest or slot.candidate
            if manifest:
                self._builds[manifest.build_id] = manifest
        if evidence.ring(header):
            with output.bar(f"reading {disk.path.name}") as bar:
                self.lists.append(evidence.read(disk, header, bar))

    @property
    def _entries(self) -> list[Evidence]:
        return evidence.merge(self.lists)

    def show(self) -> Iterator[str]:
        """Lines for people: under each session the blocks that were repaired."""
        entries = self._entries
        if not self.lists:
            yield "evidence: these regions have no room for it; one that is made anew has"
        elif not entries:
            yield "evidence: none, no repair has replaced a damaged block so far"
        title = ""
        for entry in entries:
            when = journal.when(entry.time) or "no clock"
            what = (
                f"session {entry.session}  {when}  repaired by {_REPAIRED.get(entry.reason, '?')}"
            )
            if what != title:
                title = what
                yield title
            _, text = evidence.kind(entry, self._builds.values())
            yield f"  block {entry.block:<5} [{evidence.strip(entry)}]  {text}"

    def to_json(self) -> list[dict[str, Any]]:
        """The same for programs, with every difference that is known."""
        return [self._describe(entry) for entry in self._entries]

    def _describe(self, entry: Evidence) -> dict[str, Any]:
        kind, text = evidence.kind(entry, self._builds.values())
        known = asdict(entry)
        return {
            **known,
            "kind": kind,
            "text": text,
            "build_id": entry.build_id.hex(),
            "differences": [[x.offset, x.was, x.right] for x in entry.differences],
            "raw": entry.raw.hex() if entry.raw else None,
            "complete": entry.complete,
        }
