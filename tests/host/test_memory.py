"""model/memory.py against mirrors made by hand from docs/format.md, section 6."""

import random
import struct
import zlib

import handmade
import pytest
from handmade import (
    build_payload,
    member_payload,
    memory_header,
    memory_record,
    mirror,
    set_payload,
)

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model import memory

U32 = struct.Struct("<I").pack
BLANK = b"\xff" * 16384
CODES = {f"memory-{what}" for what in ("magic", "crc", "version", "field", "cloned", "epoch")}
CODES |= {f"record-{what}" for what in ("magic", "crc", "field", "missing", "differs")}


def build(number):
    return bytes([number]) * 32


def record(kind, sequence, payload):
    return memory_record(kind, sequence, payload)


A, B = member_payload(0, 2), member_payload(1, 2, region_id=b"b" * 16, name=b"sata1")
OWN = [record(1, 1, A), record(1, 2, B), record(2, 3, set_payload(A, B))]


def parse(*pages, **header):
    """Of two mirrors that are alike."""
    one = mirror(*pages, **header)
    return memory.parse(one, one)


# --- what records mean


def test_a_memory_is_read_field_by_field():
    found = parse(
        *OWN,
        record(3, 4, build_payload(build(1), b"1.0", 3)),
        record(3, 5, build_payload(build(2), b"1.1", 4)),
        record(4, 6, build(9)),
        record(5, 7, U32(17) + U32(2)),
        record(6, 8, U32(4)),
        record(77, 9, b"what a later version knows"),
        epoch=5,
        uid=b"serial",
    )
    assert (found.state, found.epoch, found.uid, found.damage) == ("ok", 5, b"serial", ())
    assert found.set_id == handmade.SET_ID
    assert [vars(member) for member in found.members] == [
        {
            "set_id": handmade.SET_ID,
            "region_id": region_id,
            "first_lba": 8,
            "sectors": handmade.SECTORS,
            "lba_size": 512,
            "index": index,
            "count": 2,
            "name": name,
        }
        for index, (region_id, name) in enumerate(
            [(handmade.REGION_ID, "sata0"), (b"b" * 16, "sata1")]
        )
    ]
    assert found.builds == (memory.Build(build(2), 4, "1.1"), memory.Build(build(1), 3, "1.0"))
    assert (found.rejected, found.failed, found.counter) == ((build(9),), {17: 2}, 4)
    assert [one.kind for one in found.records][-1] == 77
    assert not found.read_only


def test_only_a_closed_set_counts_and_the_newest_one():
    lone = record(1, 4, member_payload(0, 1, set_id=b"n" * 16))
    assert parse(*OWN, lone).set_id == handmade.SET_ID
    closing = record(2, 5, set_payload(member_payload(0, 1, set_id=b"n" * 16), set_id=b"n" * 16))
    found = parse(*OWN, lone, closing)
    assert (found.set_id, len(found.members)) == (b"n" * 16, 1)
    assert parse(*OWN, record(2, 4, bytes(24))).set_id is None
    assert parse(*OWN, record(2, 4, bytes(24))).members == ()
    assert parse(*OWN, record(2, 4, handmade.SET_ID + bytes(8))).set_id is None  # whatever the id


@pytest.mark.parametrize(
    "closing",
    [
        set_payload(B, A),  # another order
        set_payload(A),
        set_payload(A, B, set_id=b"x" * 16),  # of another set than its members
        handmade.SET_ID + struct.pack("<HHI", 3, 0, 0),
        handmade.SET_ID + struct.pack("<HHI", 17, 0, 0),
        handmade.SET_ID + struct.pack("<HHI", 0xFFFF, 0, 0),
        bytes(20) + U32(1),  # no member, but a sum of some
        handmade.SET_ID + struct.pack("<HHI", 1, 0, zlib.crc32(A + B)),
    ],
)
def test_a_set_that_does_not_close_is_as_if_it_was_never_written(closing):
    assert parse(*OWN[:2], record(2, 3, closing)).set_id is None
    again = [record(1, 4, A), record(1, 5, B), record(2, 6, closing)]
    assert parse(*OWN, *again).set_id == handmade.SET_ID


@pytest.mark.parametrize(("count", "counts"), [(16, True), (17, False)])
def test_a_set_has_at_most_16_members(count, counts):
    payloads = [member_payload(index, count) for index in range(count)]
    pages = [record(1, number, payload) for number, payload in enumerate(payloads, 1)]
    found = parse(*pages, record(2, count + 1, set_payload(*payloads)))
    assert (found.set_id is not None) is counts


def test_a_set_with_a_member_missing_or_no_member_does_not_count():
    assert parse(OWN[0], OWN[2]).set_id is None
    other = record(3, 2, build_payload(build(1)))
    assert parse(OWN[0], other, OWN[2]).set_id is None
    alone = handmade.SET_ID + struct.pack("<HHI", 2, 0, zlib.crc32(A))
    assert parse(OWN[0], record(2, 2, alone)).set_id is None


@pytest.mark.parametrize("kind", [0, 2, 3, 9, 200])
def test_no_other_record_stands_between_the_members_of_a_set(kind):
    closing = record(2, 4, set_payload(A, B))
    other = record(kind, 2, b"something else")
    assert parse(OWN[0], other, record(1, 3, B), closing).set_id is None
    # Numbers that are missing there do not matter, nor does a member before those of the set.
    assert parse(OWN[0], record(1, 3, B), closing).set_id == handmade.SET_ID
    assert parse(record(1, 1, B), record(1, 2, A), record(1, 3, B), closing).members[0].index == 0


def test_a_member_of_another_set_does_not_close_one():
    other = member_payload(1, 2, set_id=b"x" * 16)
    pages = [record(1, 1, A), record(1, 2, other)]
    own_alone = handmade.SET_ID + struct.pack("<HHI", 2, 0, zlib.crc32(A))
    for sums in (set_payload(A, other), own_alone):
        assert parse(*pages, record(2, 3, sums)).set_id is None


def test_what_a_later_version_says_behind_a_members_name_does_not_change_its_set():
    more = A[:80] + b"later".ljust(160, b"\1")
    assert parse(record(1, 1, more), *OWN[1:]).set_id == handmade.SET_ID
    closing = record(2, 3, set_payload(more, B))
    assert parse(record(1, 1, more), OWN[1], closing).set_id is None


def test_the_last_eight_builds_count_and_a_newer_record_makes_one_newer():
    numbers = [*range(1, 11), 4]
    pages = [record(3, n, build_payload(build(b))) for n, b in enumerate(numbers, 1)]
    found = parse(*pages)
    assert [one.build_id[0] for one in found.builds] == [4, 10, 9, 8, 7, 6, 5, 3]
    pages = [record(4, n, build(b)) for n, b in enumerate(numbers, 1)]
    assert [one[0] for one in parse(*pages).rejected] == [4, 10, 9, 8, 7, 6, 5, 3]


def test_counts_of_failed_repairs_are_the_newest_and_can_be_forgotten():
    pages = [
        record(5, n, U32(block) + U32(count))
        for n, (block, count) in enumerate([(1, 1), (2, 1), (1, 2), (3, 0)], 1)
    ]
    assert parse(*pages).failed == {1: 2, 2: 1}
    pages += [record(5, 5, b"\xff" * 4 + U32(0)), record(5, 6, U32(9) + U32(1))]
    assert parse(*pages).failed == {9: 1}


def test_the_newest_counter_counts():
    assert parse(record(6, 1, U32(7)), record(6, 2, U32(9))).counter == 9
    assert parse(record(6, 1, U32(7)), record(6, 2, U32(3))).counter == 3


def test_texts_are_shown_as_well_as_they_can_be():
    found = parse(record(3, 1, build_payload(build(1), b"\x1b[2J\xff")))
    assert found.builds[0].version == "\ufffd[2J\ufffd"


# --- mirrors


@pytest.mark.parametrize("size", [16384, 65536, 262144])
def test_erased_mirrors_are_empty(size):
    found = memory.parse(b"\xff" * size, b"\xff" * size)
    assert (found.state, found.damage, found.set_id) == ("empty", (), None)


@pytest.mark.parametrize(
    ("page", "at", "state"),
    [
        (256, 16383, "lost"),
        (256, 16384, "empty"),  # behind the 64 pages
        (1024, 255, "lost"),
        (1024, 256, "empty"),  # of a page only the first 256 bytes count
        (1024, 1023, "empty"),
        (1024, 63 * 1024, "lost"),
        (1024, 63 * 1024 + 256, "empty"),
    ],
)
def test_only_the_first_bytes_of_64_pages_are_looked_at(page, at, state):
    used = bytearray(b"\xff" * 65536)
    used[at] = 0
    blank = b"\xff" * 65536
    for pair in ((bytes(used), blank), (blank, bytes(used))):
        assert memory.parse(*pair, page).state == state


@pytest.mark.parametrize("one", [BLANK[:-1] + b"\0", bytes(16384), b"LBMEMORY" + BLANK[8:]])
def test_what_is_neither_erased_nor_valid_is_lost(one):
    for pair in ((one, BLANK), (BLANK, one), (one, one)):
        assert memory.parse(*pair).state == "lost"


def test_one_mirror_is_enough():
    good = mirror(*OWN)
    for pair, bad in (((good, BLANK), 1), ((bytes(16384), good), 0)):
        found = memory.parse(*pair)
        assert (found.state, found.set_id) == ("ok", handmade.SET_ID)
        assert found.damage == (memory.Damage(bad, 0, "memory-magic"),)


def test_of_two_epochs_only_the_higher_one_is_read():
    old = mirror(*OWN, record(6, 4, U32(9)), epoch=7)
    new = mirror(record(6, 1, U32(2)), epoch=8)
    for pair, bad in (((old, new), 0), ((new, old), 1)):
        found = memory.parse(*pair)
        assert (found.epoch, found.set_id, found.counter) == (8, None, 2)
        assert found.damage == (memory.Damage(bad, 0, "memory-epoch"),)


def test_of_equal_epochs_both_logs_count():
    pages = [*OWN, record(6, 4, U32(1)), record(6, 5, U32(2))]
    whole, short = mirror(*pages), mirror(*pages[:4])
    for pair in ((whole, short), (short, whole)):  # cut off between the two: no damage
        found = memory.parse(*pair)
        assert (found.counter, found.damage) == (2, ())
    holes = mirror(*pages[:2], *pages[3:]), mirror(*pages[:3], pages[4])
    found = memory.parse(*holes)
    assert (found.set_id, found.counter) == (handmade.SET_ID, 2)
    assert found.damage == (
        memory.Damage(0, None, "record-missing"),
        memory.Damage(1, None, "record-missing"),
    )


def test_of_records_of_one_number_that_differ_the_later_page_and_mirror_1_count():
    one, nine = record(6, 1, U32(1)), record(6, 1, U32(9))
    found = memory.parse(mirror(nine), mirror(one))
    assert (found.counter, found.damage) == (1, (memory.Damage(0, None, "record-differs"),))
    found = memory.parse(mirror(bytes(256), nine), mirror(one))  # in whatever pages
    assert found.counter == 1
    # A torn write, put down once more in the next page, that has become readable since.
    assert parse(nine, one).counter == 1
    assert parse(nine, one).damage == ()
    assert memory.parse(mirror(one), mirror(one, nine)).counter == 9


def test_a_number_that_neither_log_has_is_a_lost_record():
    pages = [*OWN, record(6, 4, U32(1)), record(6, 5, U32(2))]
    holes = [mirror(*pages[:3], pages[4]), mirror(*pages[:2], pages[4]), mirror(*pages[1:])]
    lost = [memory.parse(one, two).lost_records for one in holes for two in holes]
    assert lost == [True, True, False, True, True, False, False, False, True]
    assert not parse(*pages).lost_records and not parse().lost_records
    # With one mirror alone there is nothing to tell by.
    for other in (BLANK, mirror(*pages[:2], pages[4], epoch=2)):
        assert not memory.parse(holes[0], other).lost_records


def test_the_log_ends_before_two_blank_pages():
    blank = BLANK[:256]
    new = record(6, 4, U32(3))
    assert parse(*OWN, blank, new).counter == 3
    assert parse(*OWN, blank, blank, new).counter == 0
    assert parse(blank, *OWN).set_id == handmade.SET_ID
    assert parse(blank, blank, *OWN).set_id is None
    assert parse(*OWN, blank, new, blank, record(6, 5, U32(4))).counter == 4


def test_the_log_ends_with_page_63():
    pages = [record(6, number, U32(number)) for number in range(1, 65)]
    one = mirror(*pages, size=32768)
    assert memory.parse(one, one).counter == 63


def test_a_page_is_blank_by_its_first_bytes():
    odd = b"\xff" * 256 + bytes(768)
    pages = [page.ljust(1024, b"\0") for page in OWN]
    one = mirror(*pages, odd, odd, OWN[0].ljust(1024), size=65536, page_size=1024)
    found = memory.parse(one, one, 1024)
    assert (found.set_id, found.damage, len(found.records)) == (handmade.SET_ID, (), 3)


@pytest.mark.parametrize(
    ("number", "counts"), [(0, False), (1, True), (65535, True), (65536, False), (1 << 31, False)]
)
def test_numbers_go_from_1_to_65535(number, counts):
    assert parse(record(6, number, U32(5))).counter == (5 if counts else 0)
    codes = {item.code for item in parse(record(6, number, U32(5))).damage}
    assert codes == (set() if counts else {"record-field"})


@pytest.mark.parametrize("torn", [b"LBMR" + bytes(100), bytes(256), b"\xff" * 255 + b"\0"])
def test_torn_pages_are_skipped_and_named(torn):
    pages = [*OWN, torn.ljust(256, b"\xff"), BLANK[:256], record(6, 4, U32(3))]
    found = parse(*pages)
    assert (found.set_id, found.counter) == (handmade.SET_ID, 3)
    assert [(item.mirror, item.page) for item in found.damage] == [(0, 4), (1, 4)]
    assert {item.code for item in found.damage} <= {"record-magic", "record-crc"}


def test_larger_pages_are_read():
    pages = [page.ljust(1024, b"\xff") for page in OWN]
    one = mirror(*pages, size=65536, page_size=1024)
    assert memory.parse(one, one, 1024).set_id == handmade.SET_ID
    assert memory.parse(one, one, 256).state == "lost"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"patch": [(8, b"\2")]}, "newer"),
        ({"patch": [(24, b"\1")]}, "newer"),
        ({"patch": [(10, b"\1")]}, "lost"),
        ({"epoch": 0}, "lost"),
        ({"epoch": 0x80000000}, "lost"),
        ({"page_size": 255}, "lost"),
        ({"page_size": 512}, "lost"),  # not 64 pages
        ({"mirror_size": 32768}, "lost"),
        ({"patch": [(32, b"\x21")]}, "lost"),
    ],
)
def test_a_header_that_breaks_a_rule_does_not_count(header, expected):
    one = memory_header(**header).ljust(16384, b"\xff")
    assert memory.parse(one, one).state == expected
    assert memory.parse(one, mirror(*OWN)).state == ("ok" if expected == "lost" else "newer")


def test_a_memory_of_another_board_does_not_count():
    one = mirror(*OWN, uid=b"abcd")
    assert memory.parse(one, one, uid=b"abcd").state == "ok"
    assert memory.parse(one, one).state == "ok"  # a dump does not say whose it is
    assert memory.parse(one, one, uid=b"").state == "ok"  # nor can a board without an id
    found = memory.parse(one, one, uid=b"abce")
    assert found.state == "lost"
    assert {item.code for item in found.damage} == {"memory-cloned"}
    long = mirror(*OWN, uid=b"u" * 32)
    assert memory.parse(long, long, uid=b"u" * 40).state == "ok"


def test_an_unknown_bit_of_the_second_word_only_keeps_from_writing():
    found = parse(*OWN, patch=[(28, b"\x80")])
    assert (found.state, found.set_id, found.read_only) == ("ok", handmade.SET_ID, True)
    old = mirror(*OWN, patch=[(28, b"\x80")])
    assert memory.parse(mirror(*OWN, epoch=2), old).read_only


# --- writing


def test_mirrors_are_written_as_documented():
    members = parse(*OWN).members
    records = memory.records_of(
        members=members,
        builds=[memory.Build(build(1), 3, "1.0")],
        rejected=[build(9)],
        failed={17: 2},
        counter=4,
    )
    written = memory.pack_mirror(records, mirror_size=16384, epoch=6, uid=b"serial")
    assert written == mirror(
        *OWN,
        record(3, 4, build_payload(build(1), b"1.0", 3)),
        record(4, 5, build(9)),
        record(5, 6, U32(17) + U32(2)),
        record(6, 7, U32(4)),
        epoch=6,
        uid=b"serial",
    )
    pages = memory.pack_mirror(records, mirror_size=65536, page_size=1024)
    assert memory.parse(pages, pages, 1024).counter == 4
    with pytest.raises(LifeboatError) as caught:
        memory.pack_mirror(records * 10, mirror_size=16384)
    assert caught.value.code == "memory-full"
    with pytest.raises(LifeboatError):  # nobody would read the 64th one
        memory.pack_mirror((records * 10)[:64], mirror_size=65536)


@pytest.mark.parametrize(
    ("block", "page", "size"),
    [
        (4096, 256, 16384),
        (4096, 512, 32768),
        (16384, 256, 16384),
        (12288, 256, 24576),
        (262144, 256, 262144),
        (65536, 1024, 65536),
        (65536, 2048, 131072),
    ],
)
def test_the_size_of_a_mirror(block, page, size):
    assert memory.mirror_size_for(block, page) == size
    assert memory.blocks_for(block, page) == 2 * size // block


# --- garbage


@pytest.mark.parametrize("seed", range(40))
def test_garbage_and_damage_give_a_state_and_nothing_else(seed):
    rng = random.Random(seed)
    pages = [*OWN] + [record(rng.randrange(256), n, rng.randbytes(240)) for n in range(4, 30)]
    mirrors = [bytearray(mirror(*pages, uid=b"x")) for _ in range(2)]
    for data in mirrors:
        for _ in range(rng.randrange(20)):
            data[rng.randrange(8000)] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            data[:256] = memory_header(patch=[(rng.randrange(8, 250), rng.randbytes(2))])
    if rng.random() < 0.2:
        mirrors[rng.randrange(2)][:] = rng.randbytes(16384)
    found = memory.parse(*map(bytes, mirrors), rng.choice([None, 256]), uid=None)
    assert found.state in ("ok", "empty", "lost", "newer")
    assert {item.code for item in found.damage} <= CODES
