"""formats.py against bytes made by hand from docs/format.md."""

import hashlib
import random
import struct

import handmade
import pytest

from lifeboat_host.base.crc import crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model import formats

U16, U32 = struct.Struct("<H").pack, struct.Struct("<I").pack
MANIFEST_CODES = {f"manifest-{w}" for w in ("magic", "version", "size", "crc", "field", "product")}
REGION_CODES = {f"region-{w}" for w in ("magic", "version", "crc", "field", "place")}
COMMIT_CODES = {f"commit-{w}" for w in ("magic", "version", "crc", "field")}


def parse_region(data, disk_size=1 << 20, lba_size=512, found_at=4096):
    return formats.parse_region(data, lba_size=lba_size, disk_size=disk_size, found_at=found_at)


def parse_commit(data, slot=0):
    return formats.parse_commit(data, region=parse_region(handmade.region()), slot=slot)


def code(function, *args, **kwargs):
    with pytest.raises(LifeboatError) as caught:
        function(*args, **kwargs)
    return caught.value.code


def test_crc_is_the_documented_one():
    assert crc32(b"123456789") == 0xCBF43926


# --- manifest


def test_manifest_is_read_field_by_field():
    raw = handmade.manifest(counter=7, signature=b"sig!")
    manifest = formats.parse_manifest(raw + b"\xff" * 100)
    assert manifest.raw == raw
    assert (manifest.product, manifest.version) == ("prod", "1.2")
    assert (manifest.block_size, manifest.block_count, manifest.code_size) == (4096, 3, 12288)
    assert manifest.security_counter == 7
    assert (manifest.signature_type, manifest.signature) == (1, b"sig!")
    assert [vars(s) for s in manifest.segments] == [
        {"name": "os", "kind": 1, "offset": 0, "size": 5000},
        {"name": "app", "kind": 2, "offset": 8192, "size": 4096},
    ]
    assert all(manifest.block_matches(i, b) == (True, True) for i, b in enumerate(handmade.BLOCKS))
    assert manifest.block_matches(0, handmade.BLOCKS[1]) == (False, False)
    assert manifest.build_id == handmade.build_id(raw, 4)
    assert manifest.build == handmade.build_id(raw, 4).hex()[:12]


@pytest.mark.parametrize("signature", [b"", b"signature"])
def test_manifest_is_written_as_documented(signature):
    raw = formats.pack_manifest(
        product="prod",
        version="1.2",
        block_size=4096,
        segments=[formats.Segment("os", 1, 0, 5000), formats.Segment("app", 2, 8192, 4096)],
        blocks=handmade.BLOCKS,
        security_counter=7,
        signature_type=1 if signature else 0,
        signature=signature,
    )
    assert raw == handmade.manifest(counter=7, signature=signature)


def test_the_same_code_signed_again_is_the_same_build():
    raws = [handmade.manifest(signature=s) for s in (b"", b"one!", b"two!", b"a longer one")]
    manifests = [formats.parse_manifest(raw) for raw in raws]
    assert len({manifest.build_id for manifest in manifests}) == 1
    assert len({manifest.raw for manifest in manifests}) == 4


@pytest.mark.parametrize("minor", [0, 1])
def test_the_build_id_of_older_manifests_covers_the_signatures_size(minor):
    raws = [handmade.manifest(signature=s, minor=minor) for s in (b"", b"one!", b"two!")]
    ids = [formats.parse_manifest(raw).build_id for raw in raws]
    assert ids[0] != ids[1] == ids[2]
    assert ids[0] == hashlib.sha256(raws[0][:-4]).digest()


EXTENSIONS = struct.pack("<HHI", 7, 0, 5) + b"hello" + bytes(3) + struct.pack("<HHI", 0x9999, 2, 0)


def test_extensions_are_skipped_and_belong_to_the_build():
    raw = handmade.manifest(extensions=EXTENSIONS, signature=b"sig!")
    manifest = formats.parse_manifest(raw)
    assert manifest.extensions == ((7, b"hello"), (0x9999, b""))
    assert (manifest.signature, manifest.version) == (b"sig!", "1.2")
    assert manifest.build_id == handmade.build_id(raw, 4)
    assert manifest.build_id != formats.parse_manifest(handmade.manifest()).build_id


def test_extensions_are_written_as_documented():
    raw = formats.pack_manifest(
        product="prod",
        version="1.2",
        block_size=4096,
        segments=[formats.Segment("os", 1, 0, 5000), formats.Segment("app", 2, 8192, 4096)],
        blocks=handmade.BLOCKS,
        memory_blocks=8,
        extensions=[(7, b"hello")],
    )
    assert raw == handmade.manifest(extensions=EXTENSIONS[:16], memory_blocks=8)


def test_a_manifest_larger_than_a_block_takes_as_many_as_it_needs():
    blocks = [bytes([i]) * 4096 for i in range(200)]
    segments = ((b"os", 1, 0, 4096),)
    raw = handmade.manifest(blocks, segments)
    assert len(raw) == 128 + 48 + 36 * 200 + 4
    manifest = formats.parse_manifest(raw)
    assert (manifest.manifest_blocks, manifest.block_count) == (2, 200)
    for wrong in (0, 1, 3):
        raw = handmade.manifest(blocks, segments, patch=[(106, U16(wrong))])
        assert code(formats.parse_manifest, raw) == "manifest-size"


def test_a_manifest_says_what_of_the_flash_is_its_own():
    blocks = [bytes(4096)] * 200
    raw = handmade.manifest(blocks, ((b"os", 1, 0, 4096),), memory_blocks=8)
    manifest = formats.parse_manifest(raw, flash_size=211 * 4096)  # 200 + 1 + 8 + 1, and one more
    assert manifest.memory(211 * 4096) == range(202 * 4096, 210 * 4096)
    assert manifest.ranges(211 * 4096) == [
        (0, 200 * 4096),
        (201 * 4096, 4096),
        (210 * 4096, 4096),
    ]
    assert formats.parse_manifest(raw, flash_size=210 * 4096)
    assert code(formats.parse_manifest, raw, flash_size=209 * 4096) == "manifest-field"


@pytest.mark.parametrize(
    ("parse", "make", "incompat", "ro_compat", "expected"),
    [
        (formats.parse_manifest, handmade.manifest, 96, 100, "manifest-version"),
        (lambda data: parse_region(data), handmade.region, 92, 96, "region-version"),
        (
            lambda data: parse_commit(data),
            lambda **k: handmade.commit(handmade.manifest(), **k),
            80,
            84,
            "commit-version",
        ),
        (
            lambda data: parse_page(data),
            lambda **k: handmade.page(5, ENTRIES, **k),
            36,
            40,
            "journal-version",
        ),
    ],
)
def test_words_that_forbid_are_heeded(parse, make, incompat, ro_compat, expected):
    for bit in (0, 7, 31):
        assert code(parse, make(patch=[(incompat, U32(1 << bit))])) == expected
        assert parse(make(patch=[(ro_compat, U32(1 << bit))])).read_only
    # Also before any other rule is looked at: the newer version may have another one.
    assert code(parse, make(patch=[(incompat, U32(1)), (10, U16(9))])) == expected
    assert not parse(make()).read_only
    damaged = bytearray(make(patch=[(incompat, U32(1))]))
    damaged[incompat + 1] ^= 1
    assert code(parse, damaged) == expected.replace("version", "crc")


def test_a_full_text_field_and_utf8_are_read():
    manifest = formats.parse_manifest(handmade.manifest(product="ä".encode() * 16))
    assert manifest.product == "ä" * 16


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patch": [(0, b"X")]}, "manifest-magic"),
        ({"patch": [(8, b"\x02")]}, "manifest-version"),
        ({"patch": [(8, b"\0")]}, "manifest-version"),
        ({"patch": [(10, U16(127))]}, "manifest-field"),
        ({"patch": [(12, U32(99))]}, "manifest-size"),
        ({"patch": [(20, U32(0xFFFFFFFF))]}, "manifest-size"),
        ({"patch": [(24, U16(65))]}, "manifest-size"),
        ({"patch": [(28, U32(0xFFFFFFF0))]}, "manifest-size"),
        ({"block_size": 0}, "manifest-field"),
        ({"block_size": 4095}, "manifest-field"),
        ({"blocks": []}, "manifest-field"),
        ({"segments": ()}, "manifest-field"),
        ({"segments": [(b"%d" % i, 0, 16 * i, 16) for i in range(65)]}, "manifest-field"),
        ({"signature_type": 2}, "manifest-field"),
        ({"signature_type": 2, "signature": b"x"}, "manifest-field"),
        ({"signature_type": 0xFFFF, "signature": b"x"}, "manifest-field"),
        ({"signature_type": 1}, "manifest-field"),  # of no bytes
        ({"signature": bytes(8193), "block_size": 1 << 16, "blocks": [b""]}, "manifest-field"),
        ({"extensions": bytes(8200), "block_size": 1 << 16, "blocks": [b""]}, "manifest-field"),
        ({"extensions": bytes(8) + b"x"}, "manifest-field"),
        ({"extensions": bytes(4)}, "manifest-field"),
        ({"extensions": struct.pack("<HHI", 1, 0, 1)}, "manifest-field"),
        ({"extensions": struct.pack("<HHI", 1, 0, 0xFFFFFFFF)}, "manifest-field"),
        ({"extensions": struct.pack("<HHI", 1, 1, 0)}, "manifest-version"),
        ({"memory_blocks": 7}, "manifest-field"),
        ({"product": b"a\x1b[2J"}, "manifest-field"),
        ({"product": b"a\n"}, "manifest-field"),
        ({"version": b"\x7f"}, "manifest-field"),
        ({"version": "\x9b2J".encode()}, "manifest-field"),
        ({"segments": ((b"a\tb", 0, 0, 16),)}, "manifest-field"),
        ({"signature_type": 0, "signature": b"x"}, "manifest-field"),
        ({"product": b""}, "manifest-field"),
        ({"version": b""}, "manifest-field"),
        ({"product": b"a\0b"}, "manifest-field"),
        ({"product": b"\xff"}, "manifest-field"),
        ({"segments": ((b"", 0, 0, 16),)}, "manifest-field"),
        ({"segments": ((b"a", 0, 0, 16), (b"a", 0, 16, 16))}, "manifest-field"),
        ({"segments": ((b"a", 0, 8, 16),)}, "manifest-field"),
        ({"segments": ((b"a", 0, 0, 0),)}, "manifest-field"),
        ({"segments": ((b"a", 0, 0, 12289),)}, "manifest-field"),
        ({"segments": ((b"a", 0, 12288, 1),)}, "manifest-field"),
        ({"segments": ((b"a", 0, 0, 17), (b"b", 0, 16, 16))}, "manifest-field"),
        ({"segments": ((b"a", 0, 32, 16), (b"b", 0, 0, 16))}, "manifest-field"),
        ({"blocks": [bytes(4096)] * 200, "patch": [(106, U16(1))]}, "manifest-size"),
        ({"blocks": [bytes(16)] * 29200, "block_size": 1 << 21}, "manifest-size"),  # over 1 MiB
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(changes, expected):
    assert code(formats.parse_manifest, handmade.manifest(**changes)) == expected


def test_minor_versions_reserved_bytes_and_kinds_we_do_not_know_are_read():
    raw = handmade.manifest(segments=((b"x", 77, 0, 16),), patch=[(9, b"\x09"), (108, b"?" * 20)])
    manifest = formats.parse_manifest(raw)
    assert manifest.segments[0].kind_name == "blob"
    assert manifest.build_id == handmade.build_id(raw)  # over the bytes as they are


def test_a_manifest_for_another_board_is_refused():
    raw = handmade.manifest()
    fits = {"product": "prod", "block_size": 4096, "flash_size": 4 * 4096}
    formats.parse_manifest(raw, **fits)
    assert code(formats.parse_manifest, raw, **{**fits, "product": "p"}) == "manifest-product"
    assert code(formats.parse_manifest, raw, **{**fits, "block_size": 8192}) == "manifest-field"
    assert code(formats.parse_manifest, raw, **{**fits, "flash_size": 12288}) == "manifest-field"


def test_every_flipped_bit_and_every_truncation_of_a_manifest_is_noticed():
    raw = handmade.manifest()
    for position in range(len(raw)):
        mutant = bytearray(raw)
        mutant[position] ^= 1 << position % 8
        if position == 9:
            continue  # the minor version is under the CRC too, checked below
        assert code(formats.parse_manifest, mutant) in MANIFEST_CODES
        assert code(formats.parse_manifest, raw[:position]) in MANIFEST_CODES
    assert code(formats.parse_manifest, raw[:9] + b"\1" + raw[10:]) == "manifest-crc"


def test_a_damaged_version_number_is_damage_and_not_a_later_version():
    for parse, raw in (
        (formats.parse_manifest, handmade.manifest()),
        (parse_region, handmade.region()),
        (parse_commit, handmade.commit(handmade.manifest())),
    ):
        assert code(parse, raw[:8] + b"\x02" + raw[9:]).endswith("-crc")


# --- region header


def test_region_header_is_read_and_written_as_documented():
    header = parse_region(handmade.region())
    assert header == formats.RegionHeader(
        lba_size=512,
        set_id=handmade.SET_ID,
        region_id=handmade.REGION_ID,
        start_lba=8,
        sectors=handmade.SECTORS,
        member_index=0,
        member_count=2,
        slot_count=2,
        slot_size=handmade.SLOT_SIZE,
    )
    assert header.pack() == handmade.region()
    end = 4096 + handmade.SECTORS * 512
    assert header.copies == (4096, end - 8192, end - 4096)
    assert header.slot(1) == 4096 + 4096 + handmade.SLOT_SIZE


AFTER_SLOTS = handmade.AFTER_SLOTS


def test_the_journal_of_a_region_is_read_and_written_as_documented():
    raw = handmade.region(journal=(AFTER_SLOTS + 4096, 30))
    header = parse_region(raw)
    assert (header.journal_offset, header.journal_units) == (AFTER_SLOTS + 4096, 30)
    assert header.journal == (4096 + AFTER_SLOTS + 4096, 30)
    assert header.pack() == raw
    assert parse_region(handmade.region(journal=(AFTER_SLOTS, 32))).journal is not None


@pytest.mark.parametrize(
    "journal",
    [
        (0, 0),
        (AFTER_SLOTS, 0),
        (0, 2),
        (AFTER_SLOTS - 4096, 2),  # begins before the end of the slots
        (AFTER_SLOTS + 512, 2),
        (AFTER_SLOTS, 31),
        (AFTER_SLOTS, 34),  # ends in the tail copies
        (AFTER_SLOTS + 4096, 32),
        ((1 << 64) - 4096, 2),
        (AFTER_SLOTS, 0xFFFFFFFE),
    ],
)
def test_a_journal_that_breaks_a_rule_is_not_there_and_the_region_counts(journal):
    header = parse_region(handmade.region(journal=journal))
    assert header.journal is None
    assert header.slot_count == 2


def test_a_field_counts_whatever_the_minor_version_says():
    assert parse_region(handmade.region(minor=0)).journal is None
    assert parse_region(handmade.region(minor=0, journal=(AFTER_SLOTS, 32))).journal is not None


BEHIND = 65536 + 2 * 131072  # the slots of NEW
NEW = {
    "sectors": (BEHIND + 8 * 4096 + 8192) // 512,
    "slot_size": 131072,
    "slots_offset": 65536,
    "journal": (BEHIND, 2),
    "serial": 7,
    "product": b"prod",
}


def test_a_region_with_all_that_1_2_brings_is_read_and_written_as_documented():
    extents = [(1, 0, 2, BEHIND + 8192), (9, 4, 1, BEHIND + 16384)]
    raw = handmade.region(**NEW, area=61440, extents=extents)
    header = parse_region(raw)
    assert (header.header_serial, header.product) == (7, "prod")
    assert (header.slot(0), header.slot(1)) == (4096 + 65536, 4096 + 65536 + 131072)
    assert (header.manifest_room, header.blocks_offset) == (61440, 65536)
    assert header.extents == (
        formats.Extent(1, 0, 2, BEHIND + 8192),
        formats.Extent(9, 4, 1, BEHIND + 16384),
    )
    assert header.pack() == raw


@pytest.mark.parametrize(
    "extent",
    [
        (1, 0, 0, BEHIND + 8192),  # no unit
        (1, 0, 1, BEHIND + 8192 + 512),
        (1, 0, 1, BEHIND - 4096),  # in the slots
        (1, 0, 1, BEHIND + 4096),  # in the journal
        (1, 0, 7, BEHIND + 8192),  # in the tail copies
        (1, 0, 0xFFFFFFFF, BEHIND + 8192),
        (1, 0, 1, (1 << 64) - 4096),
    ],
)
def test_an_extent_that_breaks_a_rule_is_not_there_and_the_region_counts(extent):
    other = (2, 0, 1, BEHIND + 7 * 4096)
    header = parse_region(handmade.region(**NEW, extents=[extent, other]))
    assert [x.kind for x in header.extents] == [2]
    assert header.journal is not None


def test_extents_that_overlap_are_not_there():
    extents = [(1, 0, 2, BEHIND + 8192), (2, 0, 2, BEHIND + 12288), (3, 0, 1, BEHIND + 20480)]
    header = parse_region(handmade.region(**NEW, extents=extents))
    assert [x.kind for x in header.extents] == [3]


@pytest.mark.parametrize("kind", [1, 3, 99])
def test_an_extent_that_forbids_makes_the_region_one_of_a_newer_format(kind):
    raw = handmade.region(**NEW, extents=[(kind, 1, 1, BEHIND + 8192)])
    assert code(parse_region, raw) == "region-version"
    parse_region(handmade.region(**NEW, extents=[(0, 1, 1, BEHIND + 8192)]))  # a free entry
    wrong = handmade.region(extents=[(kind, 1, 1, 0)], count=0, patch=[(104, b"\xff")])
    assert code(parse_region, wrong) == "region-version"  # before any other rule


def test_a_region_of_a_newer_format_is_known_wherever_it_stands():
    for raw in (
        handmade.region(patch=[(8, b"\2")]),
        handmade.region(patch=[(92, b"\1")]),
        handmade.region(extents=[(5, 1, 1, 0)]),
    ):
        assert formats.newer_region(raw).code == "region-version"
    for raw in (handmade.region(), handmade.region(count=0), b"", bytes(4096)):
        assert formats.newer_region(raw) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patch": [(0, b"X")]}, "region-magic"),
        ({"patch": [(8, b"\x02")]}, "region-version"),
        ({"patch": [(10, U16(511))]}, "region-field"),
        ({"lba_size": 1024}, "region-field"),
        ({"start_lba": 9}, "region-field"),
        ({"sectors": handmade.SECTORS + 1}, "region-field"),
        ({"sectors": 0}, "region-field"),
        ({"count": 0}, "region-field"),
        ({"count": 65}, "region-field"),
        ({"index": 2}, "region-field"),
        ({"slots": 1}, "region-field"),
        ({"slots": 17}, "region-field"),
        ({"slots": 4}, "region-field"),
        ({"slot_size": 73727}, "region-field"),
        ({"slot_size": 69632}, "region-field"),
        ({"slot_size": 1 << 40}, "region-field"),
        ({"area": 4095}, "region-field"),
        ({"area": (1 << 20) + 4096}, "region-field"),
        ({"area": handmade.SLOT_SIZE - 4096}, "region-field"),
        ({"slots_offset": 4095}, "region-field"),
        ({"slots_offset": 4096 + 131072 + 4096}, "region-field"),  # the slots in the tail copies
        ({"slots_offset": 0xFFFFF000}, "region-field"),
        ({"product": b"a\x1b"}, "region-field"),
        ({"product": b"\xff"}, "region-field"),
        ({"start_lba": 16}, "region-place"),
        ({"start_lba": 1 << 60}, "region-place"),
        ({"lba_size": 4096, "start_lba": 1, "sectors": 512}, "region-place"),
    ],
)
def test_a_region_header_that_breaks_a_rule_is_refused(changes, expected):
    assert code(parse_region, handmade.region(**changes)) == expected


def test_a_region_header_elsewhere_or_past_the_disk_is_refused():
    end = 4096 + handmade.SECTORS * 512
    for found_at in (4096, end - 8192, end - 4096):
        parse_region(handmade.region(), found_at=found_at)
    for found_at in (0, 8192, end - 12288, end):
        assert code(parse_region, handmade.region(), found_at=found_at) == "region-place"
    parse_region(handmade.region(), disk_size=end)
    assert code(parse_region, handmade.region(), disk_size=end - 512) == "region-place"


# --- commit record


def test_commit_record_is_read_and_written_as_documented():
    raw = handmade.manifest()
    record = parse_commit(handmade.commit(raw, slot=1, generation=9), slot=1)
    assert record == formats.Commit(
        slot=1,
        region_id=handmade.REGION_ID,
        build_id=handmade.build_id(raw),
        generation=9,
        manifest_size=len(raw),
        block_size=4096,
        block_count=3,
    )
    assert record.pack() == handmade.commit(raw, slot=1, generation=9)
    assert record.describes(formats.parse_manifest(raw))
    assert not record.describes(formats.parse_manifest(handmade.manifest(version=b"2")))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patch": [(0, b"X")]}, "commit-magic"),
        ({"patch": [(8, b"\xff")]}, "commit-version"),
        ({"patch": [(10, U16(0))]}, "commit-field"),
        ({"slot": 1}, "commit-field"),
        ({"region_id": bytes(16)}, "commit-field"),
        ({"generation": 0}, "commit-field"),
        ({"generation": 0xFFFFFFF0}, "commit-field"),
        ({"patch": [(76, U32(5))]}, "commit-field"),
        ({"patch": [(68, U32(65537))]}, "commit-field"),
        ({"patch": [(68, U32(0))]}, "commit-field"),
        ({"patch": [(72, U32(0))]}, "commit-field"),
        ({"patch": [(72, U32(512))]}, "commit-field"),
        ({"patch": [(76, U32(0))]}, "commit-field"),
        ({"magic": b"LBCANDID"}, "commit-magic"),
        ({"patch": [(72, U32(0xFFFFFFFF))]}, "commit-field"),
    ],
)
def test_a_commit_record_that_breaks_a_rule_is_refused(changes, expected):
    assert code(parse_commit, handmade.commit(handmade.manifest(), **changes)) == expected


def test_the_highest_generation_is_read():
    record = handmade.commit(handmade.manifest(), generation=0xFFFFFFEF)
    assert parse_commit(record).generation == 0xFFFFFFEF


def test_the_record_of_a_candidate_is_read_where_one_is_looked_for():
    raw = handmade.manifest()
    header = parse_region(handmade.region())
    record = handmade.commit(raw, generation=9, magic=b"LBCANDID")
    found = formats.parse_commit(record, region=header, slot=0, candidate=True)
    assert found.describes(formats.parse_manifest(raw))
    other = handmade.commit(raw)
    assert (
        code(formats.parse_commit, other, region=header, slot=0, candidate=True) == "commit-magic"
    )


def test_a_generation_that_only_forgery_reaches_is_older_than_all_others():
    records = [
        parse_commit(handmade.commit(handmade.manifest(), generation=generation))
        for generation in (0xFFFFFFEF, 1, 0xFF000000, 0xFEFFFFFF, 2)
    ]
    order = [record.generation for record in sorted(records, key=lambda record: record.age)]
    assert order == [0xFF000000, 0xFFFFFFEF, 1, 2, 0xFEFFFFFF]


@pytest.mark.parametrize(
    ("parse", "good", "codes"),
    [
        (parse_region, handmade.region(), REGION_CODES),
        (parse_commit, handmade.commit(handmade.manifest()), COMMIT_CODES),
        (formats.parse_manifest, handmade.manifest(), MANIFEST_CODES),
    ],
)
def test_garbage_and_mutated_records_give_a_code_and_nothing_else(parse, good, codes):
    rng = random.Random(1)
    inputs = [b"", bytes(4096), b"\xff" * 4096, good[:8], good[:511], good[:100]]
    inputs += [rng.randbytes(512) for _ in range(100)]
    for _ in range(1000):  # a valid CRC over mutated fields
        body = bytearray(good[:508])
        for _ in range(rng.randrange(1, 4)):
            body[rng.choice((*range(8, 144), *range(268, len(body))))] = rng.randrange(256)
        inputs.append(handmade.sealed(bytes(body)))
    for data in inputs:
        try:
            parse(data)
        except LifeboatError as error:
            assert error.code in codes
            assert error.message


# --- pages of the journal

JOURNAL_CODES = {f"journal-{w}" for w in ("magic", "version", "crc", "field")}
ENTRIES = [
    handmade.entry(41, 7, b"power-on", b"RUN_DEGRADED", b"1.0", 12, 0, time=1763632800, up=412),
    handmade.entry(42, 7, b"found", b"", b"flash", 127, 1, time=1763632800, up=412),
    handmade.entry(43, 7, b"changed", b"restart", b"123456789012", 0xFFFFFFFF, 3, phase=1),
]


def parse_page(data):
    return formats.parse_page(data, parse_region(handmade.region()))


def test_a_page_of_the_journal_is_read_and_written_as_documented():
    raw = handmade.page(5, ENTRIES)
    page = parse_page(raw)
    assert page.serial == 5
    assert [tuple(vars(entry).values()) for entry in page.entries] == [
        (41, 7, 1763632800, 412, 0, "power-on", "RUN_DEGRADED", "1.0", 12, 0),
        (42, 7, 1763632800, 412, 0, "found", "", "flash", 127, 1),
        (43, 7, 0, 9, 1, "changed", "restart", "123456789012", 0xFFFFFFFF, 3),
    ]
    assert formats.pack_page(page, parse_region(handmade.region())) == raw


def test_the_highest_serial_is_read():
    assert parse_page(handmade.page(0xFFFFFFEF, ENTRIES)).serial == 0xFFFFFFEF


def test_a_full_page_is_read_and_written():
    raw = handmade.page(1, [handmade.entry(n, 1, b"found") for n in range(1, 63)])
    page = parse_page(raw)
    assert [entry.number for entry in page.entries] == list(range(1, 63))
    assert formats.pack_page(page, parse_region(handmade.region())) == raw


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patch": [(0, b"X")]}, "journal-magic"),
        ({"patch": [(8, b"\x02")]}, "journal-version"),
        ({"patch": [(10, U16(65))]}, "journal-field"),
        ({"region_id": bytes(16)}, "journal-field"),
        ({"serial": 0}, "journal-field"),
        ({"serial": 0xFFFFFFF0}, "journal-field"),
        ({"count": 0}, "journal-field"),
        ({"count": 63}, "journal-field"),
        ({"count": 0xFFFFFFFF}, "journal-field"),
    ],
)
def test_a_page_that_breaks_a_rule_does_not_count(changes, expected):
    assert (
        code(parse_page, handmade.page(changes.pop("serial", 5), ENTRIES, **changes)) == expected
    )


def test_every_flipped_bit_and_every_tear_of_a_page_is_noticed():
    raw = handmade.page(5, ENTRIES)
    for position in range(0, 4096, 7):
        mutant = bytearray(raw)
        mutant[position] ^= 1 << position % 8
        assert code(parse_page, mutant) in JOURNAL_CODES
    for at in range(512, 4096, 512):
        for other in (b"\0", b"\xff", b"\xaa"):
            assert code(parse_page, raw[:at] + other * (4096 - at)) == "journal-crc"
        assert code(parse_page, raw[:at]) == "journal-crc"


def test_the_phase_says_when_and_in_which_unit():
    entries = [
        handmade.entry(n, 1, b"found", up=7, phase=phase)
        for n, phase in enumerate((0, 1, 2, 3, 4), 1)
    ]
    page = parse_page(handmade.page(1, entries))
    assert [(e.in_operation, e.milliseconds) for e in page.entries] == [
        (False, 7),
        (True, 7),
        (False, 7000),
        (True, 7000),
        (False, 7),
    ]


def test_texts_of_entries_are_shown_as_well_as_they_can_be():
    texts = (b"\xff\xc3", b"a\x1b[31m", b"x\0y")
    (entry,) = parse_page(handmade.page(1, [handmade.entry(1, 1, *texts)])).entries
    assert (entry.event, entry.code, entry.where) == ("\ufffd\ufffd", "a\ufffd[31m", "x")


def test_texts_of_entries_are_cut_to_their_fields_and_ascii():
    long = formats.Entry(1, 1, 0, 0, 0, "e" * 12, "\xe4" + "c" * 17, "w" * 13, 0, 0)
    header = parse_region(handmade.region())
    (entry,) = parse_page(formats.pack_page(formats.Page(1, (long,)), header)).entries
    assert (entry.event, entry.code, entry.where) == ("e" * 11, "?" + "c" * 15, "w" * 12)
