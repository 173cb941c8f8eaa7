"""Readers and writers of the structures in docs/format.md, written from that page alone.

The field tables below are data; tests/host/test_format_doc.py holds them equal to the tables
of the page. A reader checks every rule of the page before it returns anything; a broken rule is
a `LifeboatError` whose code is `<structure>-<what>`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

import crcmod.predefined

from lifeboat_host.errors import LifeboatError

Buffer = Union[bytes, bytearray, memoryview]

MAJOR = 1
UNIT = 4096  # what a region is aligned to and a record is written in
RECORD_SIZE = 512
MANIFEST_LIMIT = 65536
MANIFEST_OFFSET = UNIT  # in a slot
BLOCKS_OFFSET = UNIT + MANIFEST_LIMIT  # in a slot
SLOT_SIZE_MIN = BLOCKS_OFFSET + UNIT
TAIL_UNITS = 2
SPARE_MIN = 131072  # left after the slots by `lifeboat region create`
GENERATION_MAX = 0xFFFFFFEF
SERIAL_MAX = 0xFFFFFFEF
PAGE_ENTRIES = 62  # most in a page of the journal
JOURNAL_UNITS_MAX = 1024
PARTITION_TYPE = "183690C2-8509-4DAE-A160-C2B9CF3B0828"

KINDS = ("blob", "os", "romfs")
SIGNATURE_NONE = 0
SIGNATURE_HSS = 1

crc32: Callable[[Buffer], int] = crcmod.predefined.mkCrcFun("crc-32")


class Layout:
    """A fixed structure as a table of (offset, size, field name).

    A field of 1, 2, 4 or 8 bytes is an integer unless it is listed in `raw`; `text` fields are
    UTF-8 padded with zeros; all others are bytes. Gaps and `reserved` fields are zeros.
    minor: the version that is written. strict: a text that does not keep the rules is an error;
    else it is cut and made ASCII when written, and shown as well as it can be when read.
    """

    def __init__(
        self,
        name: str,
        fields: Sequence[tuple[int, int, str]],
        text: Sequence[str] = (),
        raw: Sequence[str] = ("magic",),
        minor: int = 0,
        strict: bool = True,
    ) -> None:
        self.name = name
        self.fields = tuple(fields)
        self.text = frozenset(text)
        self.raw = frozenset(raw)
        self.minor = minor
        self.strict = strict
        last_offset, last_size, _ = self.fields[-1]
        self.size = last_offset + last_size

    def _is_int(self, size: int, field: str) -> bool:
        return size in (1, 2, 4, 8) and field not in self.raw and field not in self.text

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """The structure's bytes; a value that does not fit its field is an error."""
        out = bytearray(self.size)
        for offset, size, field in self.fields:
            if field == "reserved":
                continue
            value = values[field]
            if self._is_int(size, field):
                if not 0 <= value < 1 << 8 * size:
                    raise self.broken(field, f"{value} does not fit {size} bytes")
                data = int(value).to_bytes(size, "little")
            else:
                data = self._bytes(value, size) if field in self.text else bytes(value)
                if len(data) > size:
                    raise self.broken(field, f"{len(data)} bytes, the field holds {size}")
            out[offset : offset + len(data)] = data
        return bytes(out)

    def unpack(self, data: Buffer) -> dict[str, Any]:
        """Field name -> value; reserved fields are left out."""
        values: dict[str, Any] = {}
        for offset, size, field in self.fields:
            if field == "reserved":
                continue
            part = bytes(data[offset : offset + size])
            if field in self.text:
                values[field] = self._text(field, part)
            else:
                is_int = self._is_int(size, field)
                values[field] = int.from_bytes(part, "little") if is_int else part
        return values

    def _bytes(self, text: str, size: int) -> bytes:
        return text.encode() if self.strict else text.encode("ascii", "replace")[:size]

    def _text(self, field: str, part: bytes) -> str:
        if not self.strict:
            text = part.split(b"\0")[0].decode("utf-8", "replace")
            return "".join(char if char.isprintable() else "\ufffd" for char in text)
        body = part.rstrip(b"\0")
        if b"\0" in body:
            raise self.broken(field, "bytes after the zero padding began")
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            raise self.broken(field, "not UTF-8") from None

    def broken(self, field: str, why: str) -> LifeboatError:
        structure = "manifest" if self.name == "segment" else self.name
        return LifeboatError(f"{structure}-field", f"{self.name}: {field}: {why}")


MANIFEST = Layout(
    "manifest",
    (
        (0, 8, "magic"),
        (8, 1, "major"),
        (9, 1, "minor"),
        (10, 2, "header_size"),
        (12, 4, "total_size"),
        (16, 4, "block_size"),
        (20, 4, "block_count"),
        (24, 2, "segment_count"),
        (26, 2, "signature_type"),
        (28, 4, "signature_size"),
        (32, 4, "security_counter"),
        (36, 4, "reserved"),
        (40, 32, "product"),
        (72, 24, "version"),
        (96, 32, "reserved"),
    ),
    text=("product", "version"),
)

SEGMENT = Layout(
    "segment",
    (
        (0, 24, "name"),
        (24, 4, "kind"),
        (28, 4, "offset"),
        (32, 4, "size"),
        (36, 12, "reserved"),
    ),
    text=("name",),
)

REGION = Layout(
    "region",
    (
        (0, 8, "magic"),
        (8, 1, "major"),
        (9, 1, "minor"),
        (10, 2, "header_size"),
        (12, 4, "lba_size"),
        (16, 16, "set_id"),
        (32, 16, "region_id"),
        (48, 8, "start_lba"),
        (56, 8, "sectors"),
        (64, 2, "member_index"),
        (66, 2, "member_count"),
        (68, 4, "slot_count"),
        (72, 8, "slot_size"),
        (80, 8, "journal_offset"),
        (88, 4, "journal_units"),
        (92, 416, "reserved"),
        (508, 4, "crc"),
    ),
    minor=1,
)

COMMIT = Layout(
    "commit",
    (
        (0, 8, "magic"),
        (8, 1, "major"),
        (9, 1, "minor"),
        (10, 2, "header_size"),
        (12, 4, "slot"),
        (16, 16, "region_id"),
        (32, 32, "build_id"),
        (64, 4, "generation"),
        (68, 4, "manifest_size"),
        (72, 4, "block_size"),
        (76, 4, "block_count"),
        (80, 428, "reserved"),
        (508, 4, "crc"),
    ),
)

JOURNAL = Layout(
    "journal",
    (
        (0, 8, "magic"),
        (8, 1, "major"),
        (9, 1, "minor"),
        (10, 2, "header_size"),
        (12, 4, "serial"),
        (16, 16, "region_id"),
        (32, 4, "entry_count"),
        (36, 28, "reserved"),
    ),
)

ENTRY = Layout(
    "entry",
    (
        (0, 4, "number"),
        (4, 4, "session"),
        (8, 4, "time"),
        (12, 4, "uptime"),
        (16, 1, "phase"),
        (17, 11, "event"),
        (28, 16, "code"),
        (44, 12, "where"),
        (56, 4, "first"),
        (60, 4, "count"),
    ),
    text=("event", "code", "where"),
    strict=False,
)

MAGICS = {
    "manifest": b"LBMANIF\n",
    "region": b"LBREGION",
    "commit": b"LBCOMMIT",
    "journal": b"LBJOURNL",
}
LAYOUTS = {layout.name: layout for layout in (MANIFEST, SEGMENT, REGION, COMMIT, JOURNAL, ENTRY)}


def _check_start(layout: Layout, data: Buffer) -> None:
    """Magic and length: what has to hold before the CRC means anything."""
    magic = MAGICS[layout.name]
    start = bytes(data[: len(magic)])
    if start != magic:
        state = "erased" if start == b"\xff" * len(magic) else f"starts with {start.hex()}"
        raise LifeboatError(f"{layout.name}-magic", f"no {layout.name} here ({state})")
    if len(data) < layout.size:
        code = "manifest-size" if layout is MANIFEST else f"{layout.name}-crc"
        raise LifeboatError(code, f"{layout.name}: cut off after {len(data)} bytes")


def _check_seal(layout: Layout, sealed: Buffer) -> None:
    """The CRC-32 in the last 4 bytes, then the major version: a damaged version is damage."""
    stored, computed = int.from_bytes(sealed[-4:], "little"), crc32(sealed[:-4])
    if stored != computed:
        raise LifeboatError(
            f"{layout.name}-crc",
            f"{layout.name}: CRC-32 is {computed:08x}, recorded is {stored:08x}",
        )
    if sealed[8] != MAJOR:
        raise LifeboatError(
            f"{layout.name}-version",
            f"{layout.name}: format version {sealed[8]}.{sealed[9]}, this tool knows {MAJOR}.x",
            "use a lifeboat release that knows this format; do not overwrite it",
        )


# --- manifest ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """A named part of the embedded code; offset and size in bytes of code flash."""

    name: str
    kind: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def kind_name(self) -> str:
        """Unknown kinds are read as blobs."""
        return KINDS[self.kind] if self.kind < len(KINDS) else KINDS[0]


@dataclass(frozen=True)
class Manifest:
    """A manifest that keeps all rules. `raw` is the whole of it, CRC included."""

    raw: bytes
    product: str
    version: str
    block_size: int
    security_counter: int
    segments: tuple[Segment, ...]
    crcs: tuple[int, ...]
    digests: tuple[bytes, ...]
    signature_type: int
    signature: bytes

    @property
    def block_count(self) -> int:
        return len(self.crcs)

    @property
    def code_size(self) -> int:
        """Bytes of code flash that the blocks cover."""
        return self.block_count * self.block_size

    @cached_property
    def build_id(self) -> bytes:
        """32 bytes; the same for the same code, however it is signed."""
        return hashlib.sha256(self.raw[: -4 - len(self.signature)]).digest()

    @property
    def build(self) -> str:
        """The build id's first 12 hex digits, as people see it."""
        return self.build_id.hex()[:12]

    def block_matches(self, index: int, data: Buffer) -> tuple[bool, bool]:
        """Whether a block's CRC-32 and SHA-256 are those of block `index`."""
        return (
            crc32(data) == self.crcs[index],
            hashlib.sha256(data).digest() == self.digests[index],
        )


def _manifest_size(segments: int, blocks: int, signature_size: int) -> int:
    return MANIFEST.size + SEGMENT.size * segments + (4 + 32) * blocks + signature_size + 4


def pack_manifest(
    *,
    product: str,
    version: str,
    block_size: int,
    segments: Sequence[Segment],
    blocks: Sequence[Buffer],
    security_counter: int = 0,
    signature_type: int = SIGNATURE_NONE,
    signature: bytes = b"",
) -> bytes:
    """The manifest of `blocks`, each `block_size` bytes long, in flash order."""
    total = _manifest_size(len(segments), len(blocks), len(signature))
    header = MANIFEST.pack(
        {
            "magic": MAGICS["manifest"],
            "major": MAJOR,
            "minor": MANIFEST.minor,
            "header_size": MANIFEST.size,
            "total_size": total,
            "block_size": block_size,
            "block_count": len(blocks),
            "segment_count": len(segments),
            "signature_type": signature_type,
            "signature_size": len(signature),
            "security_counter": security_counter,
            "product": product,
            "version": version,
        }
    )
    body = b"".join(
        [header]
        + [SEGMENT.pack(vars(segment)) for segment in segments]
        + [crc32(block).to_bytes(4, "little") for block in blocks]
        + [hashlib.sha256(block).digest() for block in blocks]
        + [signature]
    )
    return body + crc32(body).to_bytes(4, "little")


def parse_manifest(
    data: Buffer,
    *,
    product: str | None = None,
    block_size: int | None = None,
    flash_size: int | None = None,
) -> Manifest:
    """The manifest at the start of `data`; bytes after it are not looked at.

    product, block_size, flash_size: a board's, when the manifest has to fit that board.
    Raises LifeboatError: manifest-magic, -version, -size, -crc, -field or -product.
    """
    _check_start(MANIFEST, data)
    sizes = struct.unpack_from("<2xI4xIH2xI", data, 10)  # no text yet: the CRC comes first
    total, blocks, segment_count, signature_size = sizes
    if not MANIFEST.size + 4 <= total <= MANIFEST_LIMIT:
        raise LifeboatError(
            "manifest-size", f"manifest: total_size {total}, the limit is {MANIFEST_LIMIT}"
        )
    if total > len(data):
        raise LifeboatError("manifest-size", f"manifest: {total} bytes, {len(data)} are there")
    raw = bytes(data[:total])
    _check_seal(MANIFEST, raw)
    parts = _manifest_size(segment_count, blocks, signature_size)
    if total != parts:
        raise LifeboatError(
            "manifest-size", f"manifest: total_size {total}, the parts add up to {parts}"
        )
    fields = MANIFEST.unpack(raw)
    _check_manifest_fields(fields)
    if total > fields["block_size"]:
        raise LifeboatError("manifest-size", f"manifest: {total} bytes, larger than a block")
    if block_size is not None and fields["block_size"] != block_size:
        raise MANIFEST.broken("block_size", f"{fields['block_size']}, the board's is {block_size}")
    if flash_size is not None and blocks > flash_size // fields["block_size"] - 1:
        raise MANIFEST.broken("block_count", f"{blocks} blocks do not fit the flash")
    if product is not None and fields["product"] != product:
        raise LifeboatError(
            "manifest-product", f"code for {fields['product']!r}, this board is {product!r}"
        )
    crc_at = MANIFEST.size + SEGMENT.size * segment_count
    sha_at = crc_at + 4 * blocks
    end = sha_at + 32 * blocks
    return Manifest(
        raw=raw,
        product=fields["product"],
        version=fields["version"],
        block_size=fields["block_size"],
        security_counter=fields["security_counter"],
        segments=_parse_segments(raw[MANIFEST.size : crc_at], blocks * fields["block_size"]),
        crcs=struct.unpack(f"<{blocks}I", raw[crc_at:sha_at]),
        digests=tuple(raw[at : at + 32] for at in range(sha_at, end, 32)),
        signature_type=fields["signature_type"],
        signature=raw[end:-4],
    )


def _check_manifest_fields(fields: Mapping[str, Any]) -> None:
    rules = (
        ("header_size", fields["header_size"] == MANIFEST.size),
        ("block_size", fields["block_size"] > 0 and fields["block_size"] % UNIT == 0),
        ("block_count", fields["block_count"] >= 1),
        ("segment_count", 1 <= fields["segment_count"] <= 64),
        ("signature_type", fields["signature_type"] in (SIGNATURE_NONE, SIGNATURE_HSS)),
        ("signature_size", fields["signature_type"] or not fields["signature_size"]),
        ("product", fields["product"]),
        ("version", fields["version"]),
    )
    for field, kept in rules:
        if not kept:
            raise MANIFEST.broken(field, f"{fields[field]!r} is not allowed")


def _parse_segments(data: bytes, code_size: int) -> tuple[Segment, ...]:
    segments = []
    names = set()
    end = 0
    for at in range(0, len(data), SEGMENT.size):
        segment = Segment(**SEGMENT.unpack(data[at : at + SEGMENT.size]))
        if not segment.name or segment.name in names:
            raise SEGMENT.broken("name", f"{segment.name!r} is empty or there twice")
        if segment.offset % 16 or segment.offset < end:
            raise SEGMENT.broken("offset", f"{segment.name}: 0x{segment.offset:x} overlaps or odd")
        if segment.size < 1 or segment.end > code_size:
            raise SEGMENT.broken("size", f"{segment.name}: {segment.size} bytes end past the code")
        names.add(segment.name)
        end = segment.end
        segments.append(segment)
    return tuple(segments)


# --- records on a member disk --------------------------------------------------------------


def _pack_record(layout: Layout, values: Mapping[str, Any]) -> bytes:
    """A record in its unit: 512 bytes with their CRC, zeros after them."""
    fixed = {
        "magic": MAGICS[layout.name],
        "major": MAJOR,
        "minor": layout.minor,
        "header_size": RECORD_SIZE,
        "crc": 0,
    }
    record = layout.pack({**values, **fixed})[:-4]
    return (record + crc32(record).to_bytes(4, "little")).ljust(UNIT, b"\0")


def _parse_record(layout: Layout, data: Buffer) -> dict[str, Any]:
    _check_start(layout, data)
    _check_seal(layout, data[:RECORD_SIZE])
    fields = layout.unpack(data)
    if fields["header_size"] != RECORD_SIZE:
        raise layout.broken("header_size", f"{fields['header_size']} is not {RECORD_SIZE}")
    for name in ("magic", "major", "minor", "header_size", "crc"):
        del fields[name]
    return fields


@dataclass(frozen=True)
class RegionHeader:
    """Header of a backup region; start and length in sectors, slot_size in bytes.

    journal_offset: in bytes from the region's start; journal_units: of 4096 bytes. `journal` is
    where the journal really is.
    """

    lba_size: int
    set_id: bytes
    region_id: bytes
    start_lba: int
    sectors: int
    member_index: int
    member_count: int
    slot_count: int
    slot_size: int
    journal_offset: int = 0
    journal_units: int = 0

    @property
    def start(self) -> int:
        """Byte offset of the region on its disk."""
        return self.start_lba * self.lba_size

    @property
    def size(self) -> int:
        return self.sectors * self.lba_size

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def copies(self) -> tuple[int, int, int]:
        """Byte offsets on the disk of the head copy and the two tail copies."""
        return self.start, self.end - 2 * UNIT, self.end - UNIT

    def slot(self, index: int) -> int:
        """Byte offset of a slot on the disk."""
        return self.start + UNIT + index * self.slot_size

    @property
    def journal(self) -> tuple[int, int] | None:
        """(byte offset on the disk, number of units), or None.

        A journal that breaks a rule is not there; the rest of the region counts all the same.
        """
        units, start = self.journal_units, self.start + self.journal_offset
        inside = self.slot(self.slot_count) <= start <= self.copies[1] - units * UNIT
        if not 0 < units <= JOURNAL_UNITS_MAX or units % 2 or start % UNIT or not inside:
            return None
        return start, units

    def pack(self) -> bytes:
        """One unit (4096 bytes)."""
        return _pack_record(REGION, vars(self))

    def check(self) -> None:
        """The rules that need nothing but the header; raises region-field."""
        rules = (
            ("lba_size", self.lba_size in (512, 4096)),
            ("start_lba", self.start % UNIT == 0 and self.start > 0),
            ("sectors", self.sectors > 0 and self.size % UNIT == 0),
            ("member_count", 1 <= self.member_count <= 64),
            ("member_index", self.member_index < self.member_count),
            ("slot_count", 2 <= self.slot_count <= 16),
            ("slot_size", self.slot_size % UNIT == 0 and self.slot_size >= SLOT_SIZE_MIN),
            ("sectors", (1 + TAIL_UNITS) * UNIT + self.slot_count * self.slot_size <= self.size),
        )
        for field, kept in rules:
            if not kept:
                raise REGION.broken(field, f"{getattr(self, field)} is not allowed")


def parse_region(data: Buffer, *, lba_size: int, disk_size: int, found_at: int) -> RegionHeader:
    """The header copy in `data`, read at byte `found_at` of a disk of `disk_size` bytes.

    Raises LifeboatError: region-magic, -version, -crc, -field, or -place (a header of another
    place or another disk).
    """
    header = RegionHeader(**_parse_record(REGION, data))
    header.check()
    if header.lba_size != lba_size:
        raise LifeboatError(
            "region-place", f"region: made for {header.lba_size} byte sectors, not {lba_size}"
        )
    if header.end > disk_size:
        raise LifeboatError("region-place", f"region: ends at byte {header.end}, past the disk")
    if found_at not in header.copies:
        raise LifeboatError(
            "region-place", f"region: a header of LBA {header.start_lba} does not belong here"
        )
    return header


@dataclass(frozen=True)
class Commit:
    """Commit record of a slot; sizes in bytes."""

    slot: int
    region_id: bytes
    build_id: bytes
    generation: int
    manifest_size: int
    block_size: int
    block_count: int

    def pack(self) -> bytes:
        """One unit (4096 bytes)."""
        return _pack_record(COMMIT, vars(self))

    def describes(self, manifest: Manifest) -> bool:
        """Whether this is the record of a copy of that build."""
        return (
            self.build_id == manifest.build_id
            and self.manifest_size == len(manifest.raw)
            and self.block_size == manifest.block_size
            and self.block_count == manifest.block_count
        )


def parse_commit(data: Buffer, *, region: RegionHeader, slot: int) -> Commit:
    """The record in `data`, read from `slot` of `region`.

    Raises LifeboatError: commit-magic, -version, -crc or -field.
    """
    commit = Commit(**_parse_record(COMMIT, data))
    rules = (
        ("slot", commit.slot == slot),
        ("region_id", commit.region_id == region.region_id),
        ("generation", 1 <= commit.generation <= GENERATION_MAX),
        (
            "block_count",
            BLOCKS_OFFSET + commit.block_count * commit.block_size <= region.slot_size,
        ),
    )
    for field, kept in rules:
        if not kept:
            raise COMMIT.broken(field, f"{getattr(commit, field)!r} is not allowed here")
    return commit


# --- journal -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One entry of the journal; time in seconds since 1970 (0: no clock), uptime in ms."""

    number: int
    session: int
    time: int
    uptime: int
    phase: int
    event: str
    code: str
    where: str
    first: int
    count: int


@dataclass(frozen=True)
class Page:
    """A page of the journal that counts; the newest one has the highest serial."""

    serial: int
    entries: tuple[Entry, ...]


def pack_page(page: Page, region: RegionHeader) -> bytes:
    """One unit (4096 bytes) of the journal of `region`; texts are cut to their fields."""
    header = JOURNAL.pack(
        {
            "magic": MAGICS["journal"],
            "major": MAJOR,
            "minor": JOURNAL.minor,
            "header_size": JOURNAL.size,
            "serial": page.serial,
            "region_id": region.region_id,
            "entry_count": len(page.entries),
        }
    )
    body = header + b"".join(ENTRY.pack(vars(entry)) for entry in page.entries)
    body = body.ljust(UNIT - 4, b"\0")
    return body + crc32(body).to_bytes(4, "little")


def parse_page(data: Buffer, region: RegionHeader) -> Page:
    """The page of the journal of `region` in `data`, one unit.

    Raises LifeboatError: journal-magic, -version, -crc or -field.
    """
    _check_start(JOURNAL, data)
    _check_seal(JOURNAL, data[:UNIT])
    fields = JOURNAL.unpack(data)
    if fields["region_id"] != region.region_id:
        raise JOURNAL.broken("region_id", "the page is of another region")
    if not 1 <= fields["serial"] <= SERIAL_MAX:
        raise JOURNAL.broken("serial", f"{fields['serial']} is not allowed")
    if not 1 <= fields["entry_count"] <= PAGE_ENTRIES:
        raise JOURNAL.broken("entry_count", f"{fields['entry_count']} is not allowed")
    end = JOURNAL.size + fields["entry_count"] * ENTRY.size
    places = range(JOURNAL.size, end, ENTRY.size)
    entries = tuple(Entry(**ENTRY.unpack(data[at : at + ENTRY.size])) for at in places)
    return Page(fields["serial"], entries)
