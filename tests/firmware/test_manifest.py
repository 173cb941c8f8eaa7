"""Each rule of format.md section 2, against manifests made by hand."""

import hashlib
import struct
import zlib
from types import SimpleNamespace

import pytest

from fakes import board as sim
from lifeboat.errors import LifeboatError
from lifeboat.manifest import Manifest, limit, load
from lifeboat.trust import Trust


def accept(m, product, block_size, blocks):
    """Ask a board with these numbers whether a manifest is for it."""
    board, flash = SimpleNamespace(PRODUCT=product, BLOCK_SIZE=block_size), SimpleNamespace()
    flash.blocks = blocks
    Trust(board, flash).accept(m)


CODE = sim.noise(1, 3 * 4096)


def record(name=b"app", kind=0, offset=0, size=3 * 4096):
    return name.ljust(24, b"\0") + struct.pack("<III", kind, offset, size) + bytes(12)


def build(*, segments=None, major=1, minor=2, header_size=128, total=None, block=4096, blocks=3,
          count=None, kind=0, signature=b"", signature_size=None, counter=0, product=b"sim",
          version=b"1.0", magic=b"LBMANIF\n", reserved=0, crc=None, extensions=b"",
          extension_size=None, incompat=0, ro_compat=0, memory=0, own=0):  # fmt: skip
    """Return a manifest; every field can be bent, the CRC is right unless given."""
    segments = [record()] if segments is None else segments
    size = 128 + 48 * len(segments) + 36 * blocks + len(extensions) + len(signature) + 4
    out = magic + struct.pack(
        "<BBHIIIHHIII", major, minor, header_size, size if total is None else total, block, blocks,
        len(segments) if count is None else count, kind,
        len(signature) if signature_size is None else signature_size, counter,
        len(extensions) if extension_size is None else extension_size,
    )  # fmt: skip
    out += product.ljust(32, b"\0") + version.ljust(24, b"\0")
    out += struct.pack("<IIHH", incompat, ro_compat, memory, own) + bytes([reserved]) * 20
    out += b"".join(segments)
    pieces = [CODE[i * 4096 : (i + 1) * 4096] for i in range(blocks)]
    out += b"".join(struct.pack("<I", zlib.crc32(p)) for p in pieces)
    out += b"".join(hashlib.sha256(p).digest() for p in pieces)
    out += extensions + signature
    return out + struct.pack("<I", zlib.crc32(out) if crc is None else crc)


def extension(kind, content=b"", flags=0, size=None):
    head = struct.pack("<HHI", kind, flags, len(content) if size is None else size)
    return head + content + bytes(-len(content) % 4)


def refusal(raw):
    with pytest.raises(LifeboatError) as caught:
        Manifest(raw)
    return caught.value.code


def test_every_field_is_read():
    raw = build(
        segments=[record(b"os", 1, 0, 4096), record(b"x" * 24, 2, 4096, 1)],
        counter=0xFFFFFFFF,
        product="Schränke".encode(),
        version=b"v" * 24,
    )
    m = Manifest(raw)
    assert (m.block_size, m.block_count, m.security_counter) == (4096, 3, 0xFFFFFFFF)
    assert (m.product, m.version) == ("Schränke", "v" * 24)
    assert m.segments == [("os", 1, 0, 4096), ("x" * 24, 2, 4096, 1)]
    assert bytes(m.raw) == raw
    for i in range(3):
        block = CODE[i * 4096 : (i + 1) * 4096]
        assert m.crc(i) == zlib.crc32(block)
        assert m.digest(i) == hashlib.sha256(block).digest()
        assert m.right(i, block)
        assert m.right(i, memoryview(bytearray(block)))
        assert not m.right((i + 1) % 3, block)


def test_a_block_is_right_by_both_sums_only():
    """I12: bytes with the CRC-32 of a block and another digest, and the other way round."""
    good = build()
    at = 128 + 48
    for lie in (at + 4, at + 12 + 32):  # CRC-32 and digest of block 1
        raw = bytearray(good[:-4])
        raw[lie] ^= 1
        m = Manifest(bytes(raw) + struct.pack("<I", zlib.crc32(raw)))
        assert m.right(0, CODE[:4096])
        assert not m.right(1, CODE[4096:8192])
    assert Manifest(good).right(1, memoryview(CODE)[4096:8192])
    assert not Manifest(good).right(1, CODE[:4096])


@pytest.mark.parametrize("minor", [0, 1])
def test_the_old_build_id_is_the_digest_of_all_before_the_signature(minor):
    unsigned = build(minor=minor)
    want = hashlib.sha256(unsigned[:-4]).digest()
    assert Manifest(unsigned).build == want
    assert Manifest(unsigned).build == want
    one, two = (Manifest(build(minor=minor, kind=1, signature=s)) for s in (b"a" * 99, b"b" * 99))
    assert one.build == two.build != want


@pytest.mark.parametrize("minor", [2, 3, 255])
@pytest.mark.parametrize("extensions", [b"", extension(1, b"abc")], ids=["plain", "extended"])
def test_the_same_code_signed_anew_or_not_at_all_is_the_same_build(minor, extensions):
    unsigned = Manifest(build(minor=minor, extensions=extensions))
    raw = bytes(unsigned.raw)[:-4]
    want = hashlib.sha256(raw[:12] + bytes(4) + raw[16:26] + bytes(6) + raw[32:]).digest()
    assert unsigned.build == want
    for signature in (b"a" * 1500, b"b" * 1500, b"c" * 1504):
        raw = build(minor=minor, extensions=extensions, kind=1, signature=signature)
        signed = Manifest(raw)
        assert signed.build == want and signed.build == unsigned.build and bytes(signed.raw) == raw


@pytest.mark.parametrize(
    "change",
    [{"counter": 1}, {"version": b"1.1"}, {"memory": 2}, {"ro_compat": 1}, {"reserved": 1},
     {"extensions": extension(1)}, {"segments": [record(b"b")]}],
    ids=str,
)  # fmt: skip
def test_whatever_else_differs_is_another_build(change):
    assert Manifest(build(**change)).build != Manifest(build()).build


def test_reserved_bytes_and_minor_versions_are_ignored():
    assert Manifest(build(minor=200, reserved=0x5A)).version == "1.0"


@pytest.mark.parametrize("minor", [0, 1, 2, 9])
@pytest.mark.parametrize("bit", [0, 13, 31])
def test_the_words_that_forbid(minor, bit):
    assert refusal(build(minor=minor, incompat=1 << bit)) == "manifest-version"
    readable = Manifest(build(minor=minor, ro_compat=1 << bit))
    assert readable.read_only and readable.version == "1.0"
    assert not Manifest(build(minor=minor)).read_only


def test_a_damaged_word_that_forbids_is_damage():
    raw = bytearray(build())
    raw[96] ^= 1
    assert refusal(bytes(raw)) == "manifest-crc"


def test_extensions_are_skipped_unless_they_must_be_known():
    some = extension(1, b"x") + extension(0xFFFF) + extension(7, bytes(500), flags=0xFFFE)
    m = Manifest(build(extensions=some, kind=1, signature=b"s" * 9))
    assert m.version == "1.0" and m.right(2, CODE[8192:])
    assert refusal(build(extensions=some + extension(2, flags=1))) == "manifest-version"


@pytest.mark.parametrize(
    "extensions",
    [b"\0" * 4, extension(1, size=1), extension(1, b"abcd", size=5), extension(1) + bytes(4),
     extension(1, size=0xFFFFFFFF), extension(1, size=0xFFFFFFF8), extension(1, bytes(8), size=1),
     extension(1) + b"\1"],
    ids=lambda e: e.hex(),
)  # fmt: skip
def test_extensions_that_do_not_fill_their_size_are_refused(extensions):
    assert refusal(build(extensions=extensions)) == "manifest-field"


def test_extensions_and_signature_have_a_limit_together():
    def signed(size):
        return build(block=16384, extensions=extension(1), kind=1, signature=bytes(size))

    assert Manifest(signed(8192 - 8)).block_size == 16384
    assert refusal(signed(8192 - 7)) == "manifest-size"


def test_unknown_kinds_of_segments_are_accepted():
    assert Manifest(build(segments=[record(kind=77)])).segments[0][1] == 77


@pytest.mark.parametrize(
    "code, change",
    [
        ("manifest-magic", {"magic": b"LBMANIF\r"}),
        ("manifest-version", {"major": 0}),
        ("manifest-version", {"major": 2}),
        ("manifest-size", {"header_size": 64}),
        ("manifest-size", {"header_size": 256}),
        ("manifest-size", {"total": 0}),
        ("manifest-size", {"total": 127}),
        ("manifest-size", {"total": 1048577}),
        ("manifest-size", {"total": 0xFFFFFFFF}),
        ("manifest-size", {"total": 128 + 48 + 36 * 3}),
        ("manifest-size", {"count": 2}),
        ("manifest-size", {"signature_size": 1, "kind": 1}),
        ("manifest-size", {"signature_size": 0xFFFFFFFF, "kind": 1}),
        ("manifest-crc", {"crc": 0}),
        ("manifest-field", {"block": 4097}),
        ("manifest-field", {"block": 6144}),
        ("manifest-field", {"blocks": 0}),
        ("manifest-field", {"segments": []}),
        ("manifest-size", {"extension_size": 4}),
        ("manifest-size", {"extension_size": 0xFFFFFFFC}),
        ("manifest-size", {"own": 2}),
        ("manifest-size", {"own": 0xFFFF}),
        ("manifest-size", {"block": 0}),
        ("manifest-field", {"memory": 1}),
        ("manifest-field", {"memory": 0xFFFF}),
        ("manifest-field", {"signature": b"x"}),
        ("manifest-field", {"kind": 1}),
        ("manifest-field", {"kind": 2}),
        ("manifest-field", {"kind": 2, "signature": b"x"}),
        ("manifest-field", {"kind": 7, "signature": b"x"}),
        ("manifest-field", {"kind": 0xFFFF, "signature": b"x"}),
        ("manifest-field", {"product": b""}),
        ("manifest-field", {"product": b"a\0b"}),
        ("manifest-field", {"product": b"\xff\xfe"}),
        ("manifest-field", {"product": b"a\n"}),
        ("manifest-field", {"product": b"\x1f"}),
        ("manifest-field", {"product": b"\x7f"}),
        ("manifest-field", {"product": "\x80".encode()}),
        ("manifest-field", {"product": "a\x9f".encode()}),
        ("manifest-field", {"version": b"\x1b[2J\x1b[31m X"}),
        ("manifest-field", {"segments": [record(b"a\tb")]}),
        ("manifest-field", {"version": b""}),
        ("manifest-field", {"version": b"\xc3"}),
        ("manifest-field", {"segments": [record(b"")]}),
        ("manifest-field", {"segments": [record(b"a\0b")]}),
        ("manifest-field", {"segments": [record(size=0)]}),
        ("manifest-field", {"segments": [record(offset=8, size=8)]}),
        ("manifest-field", {"segments": [record(size=3 * 4096 + 1)]}),
        ("manifest-field", {"segments": [record(offset=3 * 4096, size=1)]}),
        ("manifest-field", {"segments": [record(offset=0xFFFFFFF0, size=0xFFFFFFFF)]}),
        ("manifest-field", {"segments": [record(b"a", size=32), record(b"b", offset=16)]}),
        ("manifest-field", {"segments": [record(b"a", 0, 32, 16), record(b"b", 0, 0, 16)]}),
        ("manifest-field", {"segments": [record(size=16), record(offset=16, size=16)]}),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(code, change):
    with pytest.raises(LifeboatError) as caught:
        Manifest(build(**change))
    assert caught.value.code == code


def test_64_segments_are_accepted_and_65_are_not():
    def many(n):
        return build(segments=[record(b"s%d" % i, 0, 16 * i, 16) for i in range(n)], block=8192)

    assert len(Manifest(many(64)).segments) == 64
    with pytest.raises(LifeboatError) as caught:
        Manifest(many(65))
    assert caught.value.code == "manifest-field"


def test_the_texts_next_to_control_characters_are_allowed():
    assert Manifest(build(product=" ~\xa0".encode())).product == " ~\xa0"


@pytest.mark.parametrize("own", [0, 1])
def test_a_manifest_takes_the_blocks_that_it_says(own):
    signature = b"s" * (4096 - len(build()))
    m = Manifest(build(kind=1, signature=signature, own=own))
    assert (m.manifest_blocks, len(m.raw)) == (1, 4096)
    assert refusal(build(kind=1, signature=signature + b"s", own=own)) == "manifest-size"
    more = Manifest(build(kind=1, signature=signature + b"s", own=2))
    assert more.manifest_blocks == 2
    most = b"s" * (8192 - len(build()))
    assert Manifest(build(kind=1, signature=most, own=2)).manifest_blocks == 2
    assert refusal(build(kind=1, signature=most, own=3)) == "manifest-size"


def test_the_largest_manifest_of_a_64_mib_flash_with_small_blocks():
    blocks = 16384 - 143
    raw = build(blocks=0, segments=[record(size=16)])[: 128 + 48]
    raw = bytearray(raw)
    struct.pack_into("<II", raw, 12, 128 + 48 + 36 * blocks + 4, 4096)
    struct.pack_into("<I", raw, 20, blocks)
    struct.pack_into("<H", raw, 106, 143)
    raw += bytes(36 * blocks)
    raw += struct.pack("<I", zlib.crc32(raw))
    m = Manifest(bytes(raw))
    assert (m.block_count, m.manifest_blocks) == (blocks, 143)
    accept(m, "sim", 4096, 16384)
    assert len(raw) <= limit(16384) <= 1 << 20


@pytest.mark.parametrize(
    "blocks, most",
    # 128 + 64 * 48 + 8192 + 4 = 11396
    [(1, 12288), (24, 12288), (25, 16384), (32, 16384), (16384, 602112),
     (28810, 1 << 20), (1 << 20, 1 << 20)],
)  # fmt: skip
def test_the_most_that_a_manifest_for_a_board_takes(blocks, most):
    assert limit(blocks) == most
    assert min(11396 + 36 * blocks, 1 << 20) <= most < 11396 + 36 * blocks + 4096


def test_every_flipped_bit_is_noticed():
    good = build()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        with pytest.raises(LifeboatError):
            Manifest(bytes(bad))


@pytest.mark.parametrize("length", [0, 7, 8, 127])
def test_a_stump_is_no_manifest(length):
    with pytest.raises(LifeboatError) as caught:
        Manifest(build()[:length])
    assert caught.value.code == "manifest-magic"


class Store:
    """Reads for load(); notes how much was read."""

    def __init__(self, raw):
        self.data = raw + bytes(-len(raw) % 4096)
        self.reads = []

    def read(self, start, view):
        self.reads.append((start, len(view) - start))
        assert start % 4096 == len(view) % 4096 == 0
        assert len(view) <= len(self.data) and view[:start] == self.data[:start]
        view[start:] = self.data[start : len(view)]


@pytest.mark.parametrize("length", [1, 3000, 5000, 8192])
def test_loading_reads_no_more_than_the_manifest_takes(length):
    raw = build(kind=1, signature=bytes(length), block=65536)
    store = Store(raw)
    assert bytes(load(store.read, 65536, bytearray(4096)).raw) == raw
    assert sum(n for _, n in store.reads) == len(store.data)


def test_loading_reads_nothing_beyond_the_room_there_is():
    raw = bytearray(build())
    struct.pack_into("<I", raw, 12, 8192)
    store = Store(bytes(raw))
    with pytest.raises(LifeboatError) as caught:
        load(store.read, 4096, bytearray(4096))
    assert caught.value.code == "manifest-size"
    assert store.reads == [(0, 4096)]


def test_only_code_for_this_board_is_accepted():
    m = Manifest(build())
    accept(m, "sim", 4096, 4)  # three blocks of code, one for the manifest
    for code, args in (
        ("manifest-product", ("other", 4096, 4)),
        ("manifest-board", ("sim", 8192, 4)),
        ("manifest-board", ("sim", 4096, 3)),
    ):
        with pytest.raises(LifeboatError) as caught:
            accept(m, *args)
        assert caught.value.code == code


def test_code_must_leave_room_for_its_manifest_and_the_memory():
    signature = b"s" * 4096
    m = Manifest(build(memory=4, own=2, kind=1, signature=signature))
    assert (m.memory_blocks, m.manifest_blocks) == (4, 2)
    accept(m, "sim", 4096, 3 + 4 + 2)
    with pytest.raises(LifeboatError) as caught:
        accept(m, "sim", 4096, 3 + 4 + 1)
    assert caught.value.code == "manifest-board"
