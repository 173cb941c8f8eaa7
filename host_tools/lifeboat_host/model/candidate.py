"""A candidate of an update in a slot of a region (docs/format.md, section 3): the offline way."""

from __future__ import annotations

from collections.abc import Callable

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.model.formats import (
    MANIFEST_OFFSET,
    UNIT,
    Commit,
    Manifest,
    RegionHeader,
)


def room(disk: Disk, header: RegionHeader, manifest: Manifest) -> region.Slot:
    """The slot that the candidate goes to; nothing is written.

    A free slot, else the oldest copy, when the newest one was read and is whole: nobody knows here
    which build runs. Raises LifeboatError: region-version, stage-room.
    """
    if header.read_only:
        raise region.read_only_error(header)
    size = header.blocks_offset + manifest.block_count * manifest.block_size
    if len(manifest.raw) > header.manifest_room or size > header.slot_size:
        raise _no_room(disk, "its slots are too small for this image")
    slots = [slot for slot in region.read_slots(disk, header) if not slot.newer]
    free = [slot for slot in slots if not slot.commit]
    same = [s for s in free if s.candidate and s.candidate.build_id == manifest.build_id]
    if free:
        return (same or free)[0]
    copies = [slot for slot in slots if not slot.read_only]
    copies.sort(key=lambda slot: slot.commit.age if slot.commit else (False, 0))
    if len(copies) < 2:
        raise _no_room(disk, "its only copy is not given up")
    if region.verify(disk, copies[-1:])[0].bad:
        raise _no_room(disk, "its newest copy is damaged, so no other one is given up")
    return copies[0]


def write(
    disk: Disk,
    header: RegionHeader,
    slot: region.Slot,
    manifest: Manifest,
    block: Callable[[int], bytes],
    progress: Progress | None = None,
) -> None:
    """Put a build into a slot, as its candidate, and read all of it back.

    Order, with a flush after each: the slot's record goes, then manifest and blocks, then the
    candidate's record. Raises LifeboatError: disk-write, disk-read, region-readback.
    """
    disk.allow([(slot.offset, slot.offset + header.slot_size)])
    region.write_units(disk, {slot.offset: bytes(UNIT)})
    area = manifest.raw.ljust(header.manifest_room, b"\0")
    region.write_units(disk, {slot.offset + MANIFEST_OFFSET: area})
    for number in range(manifest.block_count):
        region.write_units(disk, {slot.blocks + number * manifest.block_size: block(number)})
        if progress:
            progress(number + 1, manifest.block_count)
    record = Commit(
        slot.index,
        header.region_id,
        manifest.build_id,
        1,
        len(manifest.raw),
        manifest.block_size,
        manifest.block_count,
        manifest.security_counter,
    )
    region.write_units(disk, {slot.offset: record.pack(candidate=True)})


def _no_room(disk: Disk, why: str) -> LifeboatError:
    return LifeboatError(
        "stage-room",
        f"{disk.path}: no slot for the new build: {why}",
        "make the region anew with more or larger slots (region create --slots)",
    )
