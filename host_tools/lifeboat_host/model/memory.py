"""The controller's memory (docs/format.md, section 6): read both mirrors, and write fresh ones.

Written from that page alone, as formats.py is. A board appends; these tools only look at a dump
of a chip, and make whole mirrors for tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lifeboat_host.base.crc import Buffer, crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.formats import MAJOR, MINOR, Layout, check_seal, check_start
from lifeboat_host.model.keyset import KeySet

HEADER_SIZE = 256  # and of a record; the rest of a larger page is 0xFF
PAGES = 64  # of a mirror that are used, its header's included
UID_MAX = 32
EPOCH_MAX = 0x7FFFFFFF
SEQUENCE_MAX = 65535
MEMBERS_MAX = 16
BUILDS_KEPT = 8  # and of the rejected ones
ALL_BLOCKS = 0xFFFFFFFF  # of a `failed` record: all counts before it are 0

MEMBER, SET, BUILD, REJECTED, FAILED, COUNTER, KEYS, LOCK, TRIAL = range(1, 10)

LOCKED = 1  # a flag of a `lock` record

OK, EMPTY, LOST, NEWER = "ok", "empty", "lost", "newer"

MEMORY = Layout(
    "memory",
    (
        (0, 8, "magic"),
        (8, 1, "major"),
        (9, 1, "minor"),
        (10, 2, "header_size"),
        (12, 4, "epoch"),
        (16, 4, "page_size"),
        (20, 4, "mirror_size"),
        (24, 4, "incompat"),
        (28, 4, "ro_compat"),
        (32, 1, "uid_size"),
        (33, 32, "uid"),
        (65, 187, "reserved"),
        (252, 4, "crc"),
    ),
)

RECORD = Layout(
    "record",
    (
        (0, 4, "magic"),
        (4, 1, "kind"),
        (5, 3, "reserved"),
        (8, 4, "sequence"),
        (12, 240, "payload"),
        (252, 4, "crc"),
    ),
)

# Payloads, by kind; texts are for people and shown as well as they can be.
MEMBER_PAYLOAD = Layout(
    "member",
    (
        (0, 16, "set_id"),
        (16, 16, "region_id"),
        (32, 8, "first_lba"),
        (40, 8, "sectors"),
        (48, 4, "lba_size"),
        (52, 2, "index"),
        (54, 2, "count"),
        (56, 24, "name"),
    ),
    text=("name",),
    strict=False,
)

BUILD_PAYLOAD = Layout(
    "build",
    ((0, 32, "build_id"), (32, 4, "security_counter"), (36, 24, "version")),
    text=("version",),
    strict=False,
)

TRIAL_PAYLOAD = Layout(
    "trial",
    (
        (0, 1, "state"),
        (1, 1, "starts"),
        (2, 1, "limit"),
        (3, 1, "begun"),
        (4, 4, "security_counter"),
        (8, 32, "build_id"),
        (40, 32, "old_build_id"),
        (72, 24, "version"),
        (96, 24, "old_version"),
        (120, 16, "why"),
    ),
    text=("version", "old_version", "why"),
    strict=False,
)

MAGICS = {"memory": b"LBMEMORY", "record": b"LBMR"}
LAYOUTS = {layout.name: layout for layout in (MEMORY, RECORD, TRIAL_PAYLOAD)}

_PAYLOAD_SIZE = 240
_BLANK = b"\xff" * HEADER_SIZE


def mirror_size_for(block_size: int, page_size: int = HEADER_SIZE) -> int:
    """Bytes of a mirror in a code flash with such blocks and program units."""
    return -(-PAGES * page_size // block_size) * block_size


def blocks_for(block_size: int, page_size: int = HEADER_SIZE) -> int:
    """`memory_blocks` of a manifest for such a flash: both mirrors."""
    return 2 * mirror_size_for(block_size, page_size) // block_size


# --- what a memory says ----------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A member of the own set: which region, and where; name: its disk, for people."""

    set_id: bytes
    region_id: bytes
    first_lba: int
    sectors: int
    lba_size: int
    index: int
    count: int
    name: str


@dataclass(frozen=True)
class Build:
    """A build that is known."""

    build_id: bytes
    security_counter: int
    version: str


@dataclass(frozen=True)
class Trial:
    """The newest trial of a new build; state: one of the format's numbers."""

    state: int
    starts: int
    limit: int
    begun: int
    security_counter: int
    build_id: bytes
    old_build_id: bytes
    version: str
    old_version: str
    why: str

    @property
    def open(self) -> bool:
        return self.state in (1, 2)


@dataclass(frozen=True)
class Record:
    """A record of the log; payload: 240 bytes, by kind."""

    kind: int
    sequence: int
    payload: bytes

    def pack(self, page_size: int = HEADER_SIZE) -> bytes:
        """One page."""
        body = RECORD.pack({**vars(self), "magic": MAGICS["record"], "crc": 0})[:-4]
        return (body + crc32(body).to_bytes(4, "little")).ljust(page_size, b"\xff")


@dataclass(frozen=True)
class Damage:
    """Something in a mirror that is not as it must be. page: None when it is in no page.

    code: memory-magic, -crc, -version, -field (its header); memory-cloned (of another board);
    memory-epoch (older than the other mirror); record-magic, -crc, -field (a torn write, or rot);
    record-missing, record-differs (the other mirror has it, or has it otherwise).
    """

    mirror: int
    page: int | None
    code: str


@dataclass(frozen=True)
class Memory:
    """What both mirrors say together.

    state: ok, empty, lost, or newer (of a format that must not be used or overwritten).
    set_id: of the own set, or None. builds, rejected: newest first, at most eight.
    failed: block -> how often its repair was tried in vain. key_set: the one that was confirmed
    last; answers: how many opened the console. read_only: nothing may be added.
    lost_records: a number is in neither log, though both mirrors count: what it said is unknown.
    """

    state: str
    epoch: int = 0
    uid: bytes = b""
    set_id: bytes | None = None
    members: tuple[Member, ...] = ()
    builds: tuple[Build, ...] = ()
    rejected: tuple[bytes, ...] = ()
    failed: Mapping[int, int] | None = None
    counter: int = 0
    key_set: KeySet | None = None
    answers: int = 0
    locked: bool = False
    trial: Trial | None = None
    damage: tuple[Damage, ...] = ()
    records: tuple[Record, ...] = ()
    read_only: bool = False
    lost_records: bool = False


# --- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """Page 0 of a mirror; sizes in bytes."""

    epoch: int
    page_size: int
    mirror_size: int
    uid: bytes
    read_only: bool = False


def parse_header(data: Buffer) -> Header:
    """The header at the start of a mirror, whatever its sizes.

    Raises LifeboatError: memory-magic, -crc, -version or -field.
    """
    check_start(MEMORY, data, MAGICS["memory"])
    check_seal(MEMORY, data[:HEADER_SIZE])
    fields = MEMORY.unpack(data)
    page_size, mirror_size = fields["page_size"], fields["mirror_size"]
    rules = (
        ("header_size", fields["header_size"] == HEADER_SIZE),
        ("epoch", 1 <= fields["epoch"] <= EPOCH_MAX),
        ("page_size", page_size >= HEADER_SIZE),
        ("mirror_size", mirror_size >= PAGES * page_size),
        ("uid_size", fields["uid_size"] <= UID_MAX),
    )
    for field, kept in rules:
        if not kept:
            raise MEMORY.broken(field, f"{fields[field]} is not allowed")
    uid = fields["uid"][: fields["uid_size"]]
    return Header(fields["epoch"], page_size, mirror_size, uid, fields["ro_compat"] != 0)


def parse_record(page: Buffer) -> Record:
    """The record in a page. Raises LifeboatError: record-magic, -crc or -field."""
    check_start(RECORD, page, MAGICS["record"])
    sealed = page[:HEADER_SIZE]
    if int.from_bytes(sealed[-4:], "little") != crc32(sealed[:-4]):
        raise LifeboatError("record-crc", "record: its CRC-32 is wrong")
    fields = RECORD.unpack(page)
    if not 1 <= fields["sequence"] <= SEQUENCE_MAX:
        raise RECORD.broken("sequence", f"{fields['sequence']} is not allowed")
    return Record(fields["kind"], fields["sequence"], fields["payload"])


def parse(
    mirror0: bytes,
    mirror1: bytes,
    page_size: int | None = None,
    mirror_size: int | None = None,
    uid: bytes | None = None,
) -> Memory:
    """The memory in these two mirrors.

    page_size, mirror_size, uid: the board's. Without a page_size the one of the first header that
    is valid counts; without a uid any, as on a board that has none.
    """
    mirrors = (mirror0, mirror1)
    size = mirror_size or len(mirror0)
    damage: list[Damage] = []
    valid: dict[int, Header] = {}
    for number, data in enumerate(mirrors):
        try:
            header = parse_header(data)
            _check_own(header, page_size, size, uid)
        except LifeboatError as error:
            damage.append(Damage(number, 0, error.code))
        else:
            page_size = header.page_size
            valid[number] = header
    if any(item.code == "memory-version" for item in damage):
        return Memory(NEWER, damage=tuple(damage))
    pages = page_size or HEADER_SIZE
    if not valid:
        if all(_is_blank(data, page * pages) for data in mirrors for page in range(PAGES)):
            return Memory(EMPTY)
        return Memory(LOST, damage=tuple(damage))
    epoch = max(header.epoch for header in valid.values())
    logs: dict[int, _Log] = {}
    for number, header in valid.items():
        if header.epoch < epoch:
            damage.append(Damage(number, 0, "memory-epoch"))
        else:
            logs[number] = _read_log(number, mirrors[number], pages, damage)
    union = _union(logs, damage)
    return _interpret(
        tuple(union.values()),
        valid[next(iter(logs))],
        read_only=any(header.read_only for header in valid.values()),
        lost_records=len(logs) == len(mirrors) and len(union) < max(union, default=0),
        damage=tuple(damage),
    )


def _check_own(header: Header, page_size: int | None, size: int, uid: bytes | None) -> None:
    if header.page_size != (page_size or header.page_size):
        raise MEMORY.broken("page_size", f"{header.page_size}, the board's is {page_size}")
    if header.mirror_size != size:
        raise MEMORY.broken("mirror_size", f"{header.mirror_size}, the board's is {size}")
    if uid and header.uid != uid[:UID_MAX]:
        raise LifeboatError("memory-cloned", "memory: it is another board's")


def _is_blank(data: bytes, at: int) -> bool:
    """Whether the page there is: its first bytes are what counts, however large it is."""
    return data[at : at + HEADER_SIZE] == _BLANK


_Log = dict[int, Record]  # by sequence number


def _read_log(number: int, data: bytes, page_size: int, damage: list[Damage]) -> _Log:
    """Of a number that stands there twice the later one counts: the first was a torn write."""
    found: _Log = {}
    blank = 0  # pages in a row
    for page in range(1, PAGES):
        at = page * page_size
        blank = blank + 1 if _is_blank(data, at) else 0
        if blank == 2:
            break
        if blank:
            continue
        try:
            record = parse_record(data[at : at + HEADER_SIZE])
        except LifeboatError as error:
            damage.append(Damage(number, page, error.code))
        else:
            found[record.sequence] = record
    return found


def _union(logs: Mapping[int, _Log], damage: list[Damage]) -> _Log:
    """The records of all logs, in the order of their numbers; of one number mirror 1's counts."""
    found: _Log = {}
    for number in sorted(logs):
        found.update(logs[number])
    union = {sequence: found[sequence] for sequence in sorted(found)}
    for number, log in logs.items():
        last = max(log, default=0)
        for sequence, record in union.items():
            mine = log.get(sequence)
            # One that is only missing at the end is a power cut between the two mirrors.
            if mine is None and sequence < last:
                damage.append(Damage(number, None, "record-missing"))
            elif mine is not None and mine != record:
                damage.append(Damage(number, None, "record-differs"))
    return union


def _interpret(
    records: tuple[Record, ...],
    header: Header,
    *,
    read_only: bool,
    lost_records: bool,
    damage: tuple[Damage, ...],
) -> Memory:
    members: tuple[Member, ...] = ()
    row: list[bytes] = []  # payloads of members since the last record of another kind
    builds: dict[bytes, Build] = {}
    rejected: dict[bytes, None] = {}
    failed: dict[int, int] = {}
    counter, key_set, answers, flags = 0, None, 0, 0
    trial = None
    for record in records:  # oldest first
        payload = record.payload
        if record.kind == MEMBER:
            row.append(payload)
            continue
        if record.kind == SET:
            closed = _close(payload, row)
            members = members if closed is None else closed
        elif record.kind == BUILD:
            build = Build(**BUILD_PAYLOAD.unpack(payload))
            builds.pop(build.build_id, None)  # so that it stands behind the others
            builds[build.build_id] = build
        elif record.kind == REJECTED:
            rejected.pop(payload[:32], None)
            rejected[payload[:32]] = None
        elif record.kind == FAILED:
            block, count = (int.from_bytes(payload[at : at + 4], "little") for at in (0, 4))
            if block == ALL_BLOCKS:
                failed.clear()
            else:
                failed[block] = count
        elif record.kind == COUNTER:
            counter = int.from_bytes(payload[:4], "little")
        elif record.kind == KEYS:
            try:
                key_set = KeySet.parse(payload)
            except LifeboatError:
                key_set = None
        elif record.kind == LOCK:
            answers, flags = (int.from_bytes(payload[at : at + 4], "little") for at in (0, 4))
        elif record.kind == TRIAL:
            trial = Trial(**TRIAL_PAYLOAD.unpack(payload))
            trial = trial if 1 <= trial.state <= 5 else None
        row = []
    return Memory(
        OK,
        epoch=header.epoch,
        uid=header.uid,
        set_id=members[0].set_id if members else None,
        members=members,
        builds=tuple(reversed(builds.values()))[:BUILDS_KEPT],
        rejected=tuple(reversed(rejected))[:BUILDS_KEPT],
        failed={block: count for block, count in sorted(failed.items()) if count},
        counter=counter,
        key_set=key_set,
        answers=answers,
        locked=bool(flags & LOCKED),
        trial=trial,
        damage=damage,
        records=records,
        read_only=read_only,
        lost_records=lost_records,
    )


def _close(payload: bytes, row: Sequence[bytes]) -> tuple[Member, ...] | None:
    """The members of the set that this record closes, () for no set; None: it closes none.

    row: payloads of the member records right before it.
    """
    count = int.from_bytes(payload[16:18], "little")
    if count > min(MEMBERS_MAX, len(row)):
        return None
    payloads = [_fields_only(member) for member in row[len(row) - count :]]
    if crc32(b"".join(payloads)) != int.from_bytes(payload[20:24], "little"):
        return None
    members = tuple(Member(**MEMBER_PAYLOAD.unpack(member)) for member in payloads)
    return members if all(member.set_id == payload[:16] for member in members) else None


def _fields_only(payload: bytes) -> bytes:
    """The payload of a member record without what a later minor version may have added."""
    return payload[: MEMBER_PAYLOAD.size].ljust(_PAYLOAD_SIZE, b"\0")


# --- writing ---------------------------------------------------------------------------------


def records_of(
    *,
    members: Sequence[Member] = (),
    builds: Iterable[Build] = (),
    rejected: Iterable[bytes] = (),
    failed: Mapping[int, int] | None = None,
    counter: int = 0,
    first: int = 1,
) -> list[Record]:
    """The records that say this, from sequence number `first` on; builds: oldest first."""
    parts: list[tuple[int, bytes]] = []
    if members:
        payloads = [
            MEMBER_PAYLOAD.pack(vars(member)).ljust(_PAYLOAD_SIZE, b"\0") for member in members
        ]
        parts += [(MEMBER, payload) for payload in payloads]
        closing = members[0].set_id + len(members).to_bytes(4, "little")
        parts.append((SET, closing + crc32(b"".join(payloads)).to_bytes(4, "little")))
    parts += [(BUILD, BUILD_PAYLOAD.pack(vars(build))) for build in builds]
    parts += [(REJECTED, build_id) for build_id in rejected]
    for block, count in (failed or {}).items():
        parts.append((FAILED, block.to_bytes(4, "little") + count.to_bytes(4, "little")))
    if counter:
        parts.append((COUNTER, counter.to_bytes(4, "little")))
    return [
        Record(kind, sequence, payload.ljust(_PAYLOAD_SIZE, b"\0"))
        for sequence, (kind, payload) in enumerate(parts, first)
    ]


def pack_mirror(
    records: Sequence[Record],
    *,
    mirror_size: int,
    page_size: int = HEADER_SIZE,
    epoch: int = 1,
    uid: bytes = b"",
) -> bytes:
    """A whole mirror with these records, freshly written; both mirrors of a memory are alike."""
    uid = uid[:UID_MAX]
    fields = {
        "magic": MAGICS["memory"],
        "major": MAJOR,
        "minor": MINOR,
        "header_size": HEADER_SIZE,
        "epoch": epoch,
        "page_size": page_size,
        "mirror_size": mirror_size,
        "incompat": 0,
        "ro_compat": 0,
        "uid_size": len(uid),
        "uid": uid,
        "crc": 0,
    }
    body = MEMORY.pack(fields)[:-4]
    pages = [(body + crc32(body).to_bytes(4, "little")).ljust(page_size, b"\xff")]
    pages += [record.pack(page_size) for record in records]
    data = b"".join(pages)
    if len(pages) > PAGES or len(data) > mirror_size:
        raise LifeboatError("memory-full", f"{len(records)} records do not fit a mirror")
    return data.ljust(mirror_size, b"\xff")
