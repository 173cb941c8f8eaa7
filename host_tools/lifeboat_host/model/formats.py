"""Readers and writers of the structures in docs/format.md, written from that page alone.

The field tables below are data; tests/host/test_format_doc.py holds them equal to the tables
of the page. A reader checks every rule of the page before it returns anything; a broken rule is
a `LifeboatError` whose code is `<structure>-<what>`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lifeboat_host.base.crc import Buffer, crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.keyset import ID_SIZE, KeySet

MAJOR = 1
MINOR = 2  # of every structure but those that never had one
UNIT = 4096  # what a region is aligned to and a record is written in
RECORD_SIZE = 512
PARITY_BLOCKS = 16  # of the code in a group, at most
MANIFEST_LIMIT = 1 << 20
SIGNED_MAX = 8192  # extensions and signature of a manifest together
MANIFEST_OFFSET = UNIT  # in a slot
MANIFEST_AREA = 65536  # in a slot, unless the region's header says otherwise
SLOTS_OFFSET = UNIT  # of slot 0, unless the region's header says otherwise
SLOT_SIZE_MIN = MANIFEST_OFFSET + MANIFEST_AREA + UNIT
TAIL_UNITS = 2
GENERATION_MAX = 0xFFFFFFEF
GENERATION_OLD = 0xFF000000  # from here on a generation is older than all others
SERIAL_MAX = 0xFFFFFFEF
PAGE_ENTRIES = 62  # most in a page of the journal
JOURNAL_UNITS_MAX = 1024
PARTITION_TYPE = "183690C2-8509-4DAE-A160-C2B9CF3B0828"

KINDS = ("blob", "os", "romfs")
SIGNATURE_NONE = 0
SIGNATURE_HSS = 1
EXTENSION_KEYS = 1  # type of the extension that brings a key set


class Layout:
    """A fixed structure as a table of (offset, size, field name).

    A field of 1, 2, 4 or 8 bytes is an integer unless it is listed in `raw`; `text` fields are
    UTF-8 padded with zeros; all others are bytes. Gaps and `reserved` fields are zeros.
    strict: a text that does not keep the rules is an error;
    else it is cut and made ASCII when written, and shown as well as it can be when read.
    """

    def __init__(
        self,
        name: str,
        fields: Sequence[tuple[int, int, str]],
        text: Sequence[str] = (),
        raw: Sequence[str] = ("magic",),
        strict: bool = True,
    ) -> None:
        self.name = name
        self.fields = tuple(fields)
        self.text = frozenset(text)
        self.raw = frozenset(raw)
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
                data = self._bytes(field, value, size) if field in self.text else bytes(value)
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

    def _bytes(self, field: str, text: str, size: int) -> bytes:
        if not self.strict:
            return text.encode("ascii", "replace")[:size]
        self._check_text(field, text)
        return text.encode()

    def _check_text(self, field: str, text: str) -> None:
        if any(char < " " or "\x7f" <= char <= "\x9f" for char in text):
            raise self.broken(field, f"{text!r} has control characters")

    def _text(self, field: str, part: bytes) -> str:
        if not self.strict:
            text = part.split(b"\0")[0].decode("utf-8", "replace")
            return "".join(char if char.isprintable() else "\ufffd" for char in text)
        body = part.rstrip(b"\0")
        if b"\0" in body:
            raise self.broken(field, "bytes after the zero padding began")
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            raise self.broken(field, "not UTF-8") from None
        self._check_text(field, text)
        return text

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
        (36, 4, "extension_size"),
        (40, 32, "product"),
        (72, 24, "version"),
        (96, 4, "incompat"),
        (100, 4, "ro_compat"),
        (104, 2, "memory_blocks"),
        (106, 2, "manifest_blocks"),
        (108, 20, "reserved"),
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
        (92, 4, "incompat"),
        (96, 4, "ro_compat"),
        (100, 4, "header_serial"),
        (104, 32, "product"),
        (136, 4, "manifest_area"),
        (140, 4, "slots_offset"),
        (144, 124, "reserved"),
        (268, 240, "directory"),
        (508, 4, "crc"),
    ),
    text=("product",),
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
        (80, 4, "incompat"),
        (84, 4, "ro_compat"),
        (88, 4, "security_counter"),
        (92, 416, "reserved"),
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
        (36, 4, "incompat"),
        (40, 4, "ro_compat"),
        (44, 20, "reserved"),
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
CANDIDATE = b"LBCANDID"  # instead of a commit record's magic: a candidate of an update
LAYOUTS = {layout.name: layout for layout in (MANIFEST, SEGMENT, REGION, COMMIT, JOURNAL, ENTRY)}


def check_start(layout: Layout, data: Buffer, magic: bytes) -> None:
    """Magic and length: what has to hold before the CRC means anything."""
    start = bytes(data[: len(magic)])
    if start != magic:
        state = "erased" if start == b"\xff" * len(magic) else f"starts with {start.hex()}"
        raise LifeboatError(f"{layout.name}-magic", f"no {layout.name} here ({state})")
    if len(data) < layout.size:
        code = "manifest-size" if layout is MANIFEST else f"{layout.name}-crc"
        raise LifeboatError(code, f"{layout.name}: cut off after {len(data)} bytes")


def check_seal(layout: Layout, sealed: Buffer) -> None:
    """The CRC-32 in the last 4 bytes, then whether this tool may use what stands there.

    In this order: a damaged version is damage.
    """
    stored, computed = int.from_bytes(sealed[-4:], "little"), crc32(sealed[:-4])
    if stored != computed:
        raise LifeboatError(
            f"{layout.name}-crc",
            f"{layout.name}: CRC-32 is {computed:08x}, recorded is {stored:08x}",
        )
    if sealed[8] != MAJOR:
        raise newer(layout, f"{sealed[8]}.{sealed[9]}, this tool knows {MAJOR}.x")
    (at,) = (offset for offset, _, field in layout.fields if field == "incompat")
    incompat = int.from_bytes(sealed[at : at + 4], "little")
    if incompat:
        raise newer(
            layout, f"{sealed[8]}.{sealed[9]} with a feature that forbids (0x{incompat:x})"
        )


def newer(layout: Layout, what: str) -> LifeboatError:
    """The error of a structure that must be neither used nor overwritten."""
    return LifeboatError(
        f"{layout.name}-version",
        f"{layout.name}: format version {what}",
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
    """A manifest that keeps all rules. `raw` is the whole of it, CRC included.

    manifest_blocks: of the flash, at least 1; memory_blocks: of both mirrors of the memory.
    read_only: its code runs, but must be neither repaired nor backed up by this version.
    """

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
    minor: int = MINOR
    extensions: tuple[tuple[int, bytes], ...] = ()
    memory_blocks: int = 0
    manifest_blocks: int = 1
    read_only: bool = False

    @property
    def block_count(self) -> int:
        return len(self.crcs)

    @property
    def code_size(self) -> int:
        """Bytes of code flash that the blocks cover."""
        return self.block_count * self.block_size

    @property
    def signed_bytes(self) -> bytes:
        """What a signature is over: all before it."""
        return self.raw[: -4 - len(self.signature)]

    @property
    def key_id(self) -> bytes | None:
        """Of the key that signed, or so it says; None: not signed, or too short to tell."""
        if self.signature_type == SIGNATURE_NONE or len(self.signature) < ID_SIZE:
            return None
        return self.signature[:ID_SIZE]

    @property
    def key_set(self) -> KeySet | None:
        """The key set that this build brings; one that breaks a rule is as none."""
        content = next((data for kind, data in self.extensions if kind == EXTENSION_KEYS), None)
        try:
            return None if content is None else KeySet.parse(content)
        except LifeboatError:
            return None

    @cached_property
    def build_id(self) -> bytes:
        """32 bytes; the same for the same code, however it is signed."""
        body = bytearray(self.signed_bytes)
        if self.minor >= 2:
            for field in ("total_size", "signature_type", "signature_size"):
                (place,) = ((at, size) for at, size, name in MANIFEST.fields if name == field)
                body[place[0] : sum(place)] = bytes(place[1])
        return hashlib.sha256(body).digest()

    def memory(self, flash_size: int) -> range:
        """The byte offsets of the memory in a flash of that size; empty when there is none."""
        end = flash_size - self.block_size
        return range(end - self.memory_blocks * self.block_size, end)

    def ranges(self, flash_size: int) -> list[tuple[int, int]]:
        """(offset, bytes) of the flash that hold this build: code, then manifest.

        The block with the manifest's beginning is the last one, as the page wants it written.
        """
        rest = (self.manifest_blocks - 1) * self.block_size
        found = [(0, self.code_size), (self.memory(flash_size).start - rest, rest)]
        found.append((flash_size - self.block_size, self.block_size))
        return [(at, size) for at, size in found if size]

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


def _manifest_size(segments: int, blocks: int, signed: int) -> int:
    """signed: bytes of extensions and signature."""
    return MANIFEST.size + SEGMENT.size * segments + (4 + 32) * blocks + signed + 4


def manifest_size_max(blocks: int) -> int:
    """The most that the manifest of so many blocks can take."""
    return _manifest_size(64, blocks, SIGNED_MAX)


def pack_extension(kind: int, content: bytes) -> bytes:
    """An extension as it stands in a manifest."""
    return struct.pack("<HHI", kind, 0, len(content)) + content + bytes(-len(content) % 4)


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
    memory_blocks: int = 0,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """The manifest of `blocks`, each `block_size` bytes long, in flash order.

    extensions: (type, content) of each.
    """
    extra = b"".join(pack_extension(kind, content) for kind, content in extensions)
    total = _manifest_size(len(segments), len(blocks), len(extra) + len(signature))
    manifest_blocks = -(-total // block_size)
    if total > MANIFEST_LIMIT:
        raise LifeboatError(
            "manifest-size",
            f"the manifest of {len(blocks)} blocks takes {total} bytes, "
            f"the limit is {MANIFEST_LIMIT}",
            "use a larger block size (a multiple of the flash's erase size): --block-size",
        )
    header = MANIFEST.pack(
        {
            "magic": MAGICS["manifest"],
            "major": MAJOR,
            "minor": MINOR,
            "header_size": MANIFEST.size,
            "total_size": total,
            "block_size": block_size,
            "block_count": len(blocks),
            "segment_count": len(segments),
            "signature_type": signature_type,
            "signature_size": len(signature),
            "security_counter": security_counter,
            "extension_size": len(extra),
            "product": product,
            "version": version,
            "incompat": 0,
            "ro_compat": 0,
            "memory_blocks": memory_blocks,
            "manifest_blocks": manifest_blocks,
        }
    )
    body = b"".join(
        [header]
        + [SEGMENT.pack(vars(segment)) for segment in segments]
        + [crc32(block).to_bytes(4, "little") for block in blocks]
        + [hashlib.sha256(block).digest() for block in blocks]
        + [extra, signature]
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
    check_start(MANIFEST, data, MAGICS["manifest"])
    (total,) = struct.unpack_from("<I", data, 12)  # no text yet: the CRC comes first
    if not MANIFEST.size + 4 <= total <= MANIFEST_LIMIT:
        raise LifeboatError(
            "manifest-size", f"manifest: total_size {total}, the limit is {MANIFEST_LIMIT}"
        )
    if total > len(data):
        raise LifeboatError("manifest-size", f"manifest: {total} bytes, {len(data)} are there")
    raw = bytes(data[:total])
    check_seal(MANIFEST, raw)
    fields = MANIFEST.unpack(raw)
    blocks, memory_blocks = fields["block_count"], fields["memory_blocks"]
    manifest_blocks = fields["manifest_blocks"] or 1
    signed = fields["extension_size"] + fields["signature_size"]
    parts = _manifest_size(fields["segment_count"], blocks, signed)
    if total != parts:
        raise LifeboatError(
            "manifest-size", f"manifest: total_size {total}, the parts add up to {parts}"
        )
    _check_manifest_fields(fields)
    if -(-total // fields["block_size"]) != manifest_blocks:
        raise LifeboatError(
            "manifest-size",
            f"manifest: {total} bytes are not {manifest_blocks} blocks "
            f"of {fields['block_size']} bytes",
        )
    if block_size is not None and fields["block_size"] != block_size:
        raise MANIFEST.broken("block_size", f"{fields['block_size']}, the board's is {block_size}")
    there = None if flash_size is None else flash_size // fields["block_size"]
    if there is not None and blocks + manifest_blocks + memory_blocks > there:
        raise MANIFEST.broken(
            "block_count",
            f"{blocks} blocks, {memory_blocks} of memory and {manifest_blocks} of the manifest "
            "do not fit the flash",
        )
    if product is not None and fields["product"] != product:
        raise LifeboatError(
            "manifest-product", f"code for {fields['product']!r}, this board is {product!r}"
        )
    crc_at = MANIFEST.size + SEGMENT.size * fields["segment_count"]
    sha_at = crc_at + 4 * blocks
    end = sha_at + 32 * blocks
    signature_at = end + fields["extension_size"]
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
        signature=raw[signature_at:-4],
        minor=fields["minor"],
        extensions=_parse_extensions(raw[end:signature_at]),
        memory_blocks=memory_blocks,
        manifest_blocks=manifest_blocks,
        read_only=fields["ro_compat"] != 0,
    )


def _check_manifest_fields(fields: Mapping[str, Any]) -> None:
    signed = fields["extension_size"] + fields["signature_size"]
    rules = (
        ("header_size", fields["header_size"] == MANIFEST.size),
        ("block_size", fields["block_size"] > 0 and fields["block_size"] % UNIT == 0),
        ("block_count", fields["block_count"] >= 1),
        ("segment_count", 1 <= fields["segment_count"] <= 64),
        ("signature_type", fields["signature_type"] in (SIGNATURE_NONE, SIGNATURE_HSS)),
        # Both or neither.
        ("signature_size", bool(fields["signature_type"]) == bool(fields["signature_size"])),
        ("signature_size", signed <= SIGNED_MAX),
        ("extension_size", fields["extension_size"] % 4 == 0),
        ("memory_blocks", fields["memory_blocks"] % 2 == 0),
        ("product", fields["product"]),
        ("version", fields["version"]),
    )
    for field, kept in rules:
        if not kept:
            raise MANIFEST.broken(field, f"{fields[field]!r} is not allowed")


def _parse_extensions(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """(type, content) of each."""
    found = []
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise MANIFEST.broken("extension_size", "the last extension is cut off")
        kind, flags, size = struct.unpack_from("<HHI", data, at)
        end = at + 8 + size
        if end > len(data):
            raise MANIFEST.broken("extension_size", f"extension {kind} leaves the extensions")
        if flags & 1:
            raise newer(MANIFEST, f"with an extension that forbids (type {kind})")
        found.append((kind, data[at + 8 : end]))
        at = end + -end % 4
    return tuple(found)


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


def _pack_record(layout: Layout, values: Mapping[str, Any], magic: bytes = b"") -> bytes:
    """A record in its unit: 512 bytes with their CRC, zeros after them."""
    fixed = {
        "magic": magic or MAGICS[layout.name],
        "major": MAJOR,
        "minor": MINOR,
        "header_size": RECORD_SIZE,
        "incompat": 0,
        "ro_compat": 0,
        "crc": 0,
    }
    record = layout.pack({**values, **fixed})[:-4]
    return (record + crc32(record).to_bytes(4, "little")).ljust(UNIT, b"\0")


def _parse_record(layout: Layout, data: Buffer, magic: bytes = b"") -> dict[str, Any]:
    """Its fields; read_only: whether a bit of ro_compat is set."""
    check_start(layout, data, magic or MAGICS[layout.name])
    check_seal(layout, data[:RECORD_SIZE])
    if layout is REGION:
        _check_directory(data[_DIRECTORY_OFFSET : _DIRECTORY_OFFSET + _DIRECTORY_SIZE])
    fields = layout.unpack(data)
    if fields["header_size"] != RECORD_SIZE:
        raise layout.broken("header_size", f"{fields['header_size']} is not {RECORD_SIZE}")
    fields["read_only"] = fields["ro_compat"] != 0
    for name in ("magic", "major", "minor", "header_size", "incompat", "ro_compat", "crc"):
        del fields[name]
    return fields


@dataclass(frozen=True)
class Extent:
    """A part of a region that the directory names; offset in bytes from the region's start."""

    kind: int
    flags: int
    units: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.units * UNIT

    def overlaps(self, start: int, end: int) -> bool:
        return self.offset < end and start < self.end


STATE, EVIDENCE, PARITY = 1, 2, 3  # kinds of extents; but for evidence this only leaves room
_DIRECTORY_ENTRY = struct.Struct("<HHIQ")
_DIRECTORY_OFFSET, _DIRECTORY_SIZE = 268, 240


def pack_directory(extents: Sequence[Extent]) -> bytes:
    """The directory of a region header."""
    entries = [_DIRECTORY_ENTRY.pack(x.kind, x.flags, x.units, x.offset) for x in extents]
    return b"".join(entries).ljust(_DIRECTORY_SIZE, b"\0")


def _check_directory(data: Buffer) -> None:
    """Like a bit of `incompat`: looked at before any rule that a newer format may have changed."""
    for kind, flags, _, _ in _DIRECTORY_ENTRY.iter_unpack(bytes(data)):
        if kind and flags & 1:
            raise newer(REGION, f"with an extent that forbids (type {kind})")


@dataclass(frozen=True)
class RegionHeader:
    """Header of a backup region; start and length in sectors, slot_size in bytes.

    journal_offset: in bytes from the region's start; journal_units: of 4096 bytes. `journal` is
    where the journal really is, `extents` what the directory really has. read_only: nothing in
    it may be written by this version. directory, manifest_area and slots_offset as in the bytes.
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
    header_serial: int = 0
    product: str = ""
    manifest_area: int = 0
    slots_offset: int = 0
    directory: bytes = bytes(_DIRECTORY_SIZE)
    read_only: bool = False

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

    @property
    def manifest_room(self) -> int:
        """Bytes for the manifest in a slot."""
        return self.manifest_area or MANIFEST_AREA

    @property
    def blocks_offset(self) -> int:
        """Where the code begins in a slot."""
        return MANIFEST_OFFSET + self.manifest_room

    @property
    def slots_end(self) -> int:
        """In bytes from the region's start."""
        return (self.slots_offset or SLOTS_OFFSET) + self.slot_count * self.slot_size

    def slot(self, index: int) -> int:
        """Byte offset of a slot on the disk."""
        return self.start + (self.slots_offset or SLOTS_OFFSET) + index * self.slot_size

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

    @property
    def extents(self) -> tuple[Extent, ...]:
        """What the directory has; one that breaks a rule is not there."""
        inside = [
            extent
            for extent in self._entries
            if extent.units and extent.offset % UNIT == 0
            if self.slots_end <= extent.offset and extent.end <= self.size - TAIL_UNITS * UNIT
        ]
        taken = [(extent.offset, extent.end) for extent in inside]
        if self.journal:
            start, units = self.journal
            taken.append((start - self.start, start - self.start + units * UNIT))
        return tuple(x for x in inside if sum(x.overlaps(*other) for other in taken) == 1)

    @property
    def _entries(self) -> list[Extent]:
        entries = (Extent(*fields) for fields in _DIRECTORY_ENTRY.iter_unpack(self.directory))
        return [entry for entry in entries if entry.kind]

    def pack(self) -> bytes:
        """One unit (4096 bytes)."""
        return _pack_record(REGION, vars(self))

    def check(self) -> None:
        """The rules that need nothing but the header; raises region-field."""
        room = self.manifest_room
        rules = (
            ("lba_size", self.lba_size in (512, 4096)),
            ("start_lba", self.start % UNIT == 0 and self.start > 0),
            ("sectors", self.sectors > 0 and self.size % UNIT == 0),
            ("member_count", 1 <= self.member_count <= 64),
            ("member_index", self.member_index < self.member_count),
            ("slot_count", 2 <= self.slot_count <= 16),
            ("manifest_area", room % UNIT == 0 and room <= MANIFEST_LIMIT),
            ("slot_size", self.slot_size % UNIT == 0),
            ("slot_size", self.slot_size >= self.blocks_offset + UNIT),
            # Slot 0 is not in the head copy's unit: 0 stands for 4096.
            ("slots_offset", self.slots_offset % UNIT == 0),
            ("sectors", self.slots_end + TAIL_UNITS * UNIT <= self.size),
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


def newer_region(data: Buffer) -> LifeboatError | None:
    """The error region-version when `data` begins with a region header of a newer format."""
    try:
        _parse_record(REGION, data)
    except LifeboatError as error:
        return error if error.code == "region-version" else None
    return None


def parity_groups(blocks: int) -> int:
    """Groups of the blocks of a copy: block i is in group i modulo this."""
    return -(-blocks // PARITY_BLOCKS)


@dataclass(frozen=True)
class Commit:
    """Commit record of a slot; sizes in bytes. security_counter: for people."""

    slot: int
    region_id: bytes
    build_id: bytes
    generation: int
    manifest_size: int
    block_size: int
    block_count: int
    security_counter: int = 0
    read_only: bool = False

    def pack(self, candidate: bool = False) -> bytes:
        """One unit (4096 bytes); candidate: of an update, not of a copy."""
        return _pack_record(COMMIT, vars(self), CANDIDATE if candidate else b"")

    @property
    def age(self) -> tuple[bool, int]:
        """The greater, the newer: a generation of 0xFF000000 or more is a forgery's."""
        return self.generation < GENERATION_OLD, self.generation

    def describes(self, manifest: Manifest) -> bool:
        """Whether this is the record of a copy of that build."""
        return (
            self.build_id == manifest.build_id
            and self.manifest_size == len(manifest.raw)
            and self.block_size == manifest.block_size
            and self.block_count == manifest.block_count
        )


def parse_commit(
    data: Buffer, *, region: RegionHeader, slot: int, candidate: bool = False
) -> Commit:
    """The record in `data`, read from `slot` of `region`; candidate: of an update, not of a copy.

    Raises LifeboatError: commit-magic, -version, -crc or -field.
    """
    magic = CANDIDATE if candidate else MAGICS["commit"]
    commit = Commit(**_parse_record(COMMIT, data, magic))
    blocks = commit.block_count * commit.block_size
    rules = (
        ("slot", commit.slot == slot),
        ("region_id", commit.region_id == region.region_id),
        ("generation", 1 <= commit.generation <= GENERATION_MAX),
        ("manifest_size", 0 < commit.manifest_size <= region.manifest_room),
        ("block_size", commit.block_size > 0 and commit.block_size % UNIT == 0),
        ("block_count", commit.block_count > 0),
        ("block_count", region.blocks_offset + blocks <= region.slot_size),
    )
    for field, kept in rules:
        if not kept:
            raise COMMIT.broken(field, f"{getattr(commit, field)!r} is not allowed here")
    return commit


# --- journal -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One entry of the journal; time in seconds since 1970 (0: no clock).

    uptime, phase: as in the bytes; `milliseconds` and `in_operation` are what they mean.
    """

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

    @property
    def in_operation(self) -> bool:
        return bool(self.phase & 1)

    @property
    def milliseconds(self) -> int:
        """Since power-on or reset."""
        return self.uptime * 1000 if self.phase & 2 else self.uptime


@dataclass(frozen=True)
class Page:
    """A page of the journal that counts; the newest one has the highest serial.

    read_only: nothing may be added to its journal by this version.
    """

    serial: int
    entries: tuple[Entry, ...]
    read_only: bool = False


def pack_page(page: Page, region: RegionHeader) -> bytes:
    """One unit (4096 bytes) of the journal of `region`; texts are cut to their fields."""
    header = JOURNAL.pack(
        {
            "magic": MAGICS["journal"],
            "major": MAJOR,
            "minor": MINOR,
            "header_size": JOURNAL.size,
            "serial": page.serial,
            "region_id": region.region_id,
            "entry_count": len(page.entries),
            "incompat": 0,
            "ro_compat": 0,
        }
    )
    body = header + b"".join(ENTRY.pack(vars(entry)) for entry in page.entries)
    body = body.ljust(UNIT - 4, b"\0")
    return body + crc32(body).to_bytes(4, "little")


def parse_page(data: Buffer, region: RegionHeader) -> Page:
    """The page of the journal of `region` in `data`, one unit.

    Raises LifeboatError: journal-magic, -version, -crc or -field.
    """
    check_start(JOURNAL, data, MAGICS["journal"])
    check_seal(JOURNAL, data[:UNIT])
    fields = JOURNAL.unpack(data)
    if fields["header_size"] != JOURNAL.size:
        raise JOURNAL.broken("header_size", f"{fields['header_size']} is not {JOURNAL.size}")
    if fields["region_id"] != region.region_id:
        raise JOURNAL.broken("region_id", "the page is of another region")
    if not 1 <= fields["serial"] <= SERIAL_MAX:
        raise JOURNAL.broken("serial", f"{fields['serial']} is not allowed")
    if not 1 <= fields["entry_count"] <= PAGE_ENTRIES:
        raise JOURNAL.broken("entry_count", f"{fields['entry_count']} is not allowed")
    end = JOURNAL.size + fields["entry_count"] * ENTRY.size
    places = range(JOURNAL.size, end, ENTRY.size)
    entries = tuple(Entry(**ENTRY.unpack(data[at : at + ENTRY.size])) for at in places)
    return Page(fields["serial"], entries, fields["ro_compat"] != 0)
