"""Each rule of format.md section 2, against manifests made by hand."""

import hashlib
import struct
import zlib

import pytest

from fakes import board as sim
from lifeboat.errors import LifeboatError
from lifeboat.manifest import Manifest

CODE = sim.noise(1, 3 * 4096)


def record(name=b"app", kind=0, offset=0, size=3 * 4096):
    return name.ljust(24, b"\0") + struct.pack("<III", kind, offset, size) + bytes(12)


def build(*, segments=None, major=1, minor=0, header_size=128, total=None, block=4096, blocks=3,
          count=None, kind=0, signature=b"", signature_size=None, counter=0, product=b"sim",
          version=b"1.0", magic=b"LBMANIF\n", reserved=0, crc=None):  # fmt: skip
    """Return a manifest; every field can be bent, the CRC is right unless given."""
    segments = [record()] if segments is None else segments
    size = 128 + 48 * len(segments) + 36 * blocks + len(signature) + 4
    out = magic + struct.pack(
        "<BBHIIIHHIII", major, minor, header_size, size if total is None else total, block, blocks,
        len(segments) if count is None else count, kind,
        len(signature) if signature_size is None else signature_size, counter, reserved,
    )  # fmt: skip
    out += product.ljust(32, b"\0") + version.ljust(24, b"\0") + bytes([reserved]) * 32
    out += b"".join(segments)
    pieces = [CODE[i * 4096 : (i + 1) * 4096] for i in range(blocks)]
    out += b"".join(struct.pack("<I", zlib.crc32(p)) for p in pieces)
    out += b"".join(hashlib.sha256(p).digest() for p in pieces)
    out += signature
    return out + struct.pack("<I", zlib.crc32(out) if crc is None else crc)


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
        assert m.matches(i, block)
        assert m.matches(i, memoryview(bytearray(block)))
        assert not m.matches((i + 1) % 3, block)


def test_the_build_id_is_the_digest_of_all_before_the_signature():
    unsigned = build()
    want = hashlib.sha256(unsigned[:-4]).digest()
    assert Manifest(unsigned).build == want
    assert Manifest(unsigned).build_name == want.hex()[:12]
    one, two = (Manifest(build(kind=1, signature=s)) for s in (b"a" * 100, b"b" * 100))
    assert one.build == two.build != want


def test_reserved_bytes_and_minor_versions_are_ignored():
    assert Manifest(build(minor=200, reserved=0x5A)).version == "1.0"


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
        ("manifest-size", {"total": 65537}),
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
        ("manifest-field", {"signature": b"x"}),
        ("manifest-field", {"product": b""}),
        ("manifest-field", {"product": b"a\0b"}),
        ("manifest-field", {"product": b"\xff\xfe"}),
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


def test_a_manifest_is_no_longer_than_a_block():
    signature = b"s" * (4096 - len(build()))
    assert Manifest(build(kind=1, signature=signature)).block_size == 4096
    with pytest.raises(LifeboatError) as caught:
        Manifest(build(kind=1, signature=signature + b"s"))
    assert caught.value.code == "manifest-size"


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
    """Reads for Manifest.load; notes what was read."""

    def __init__(self, raw):
        self.data = raw + bytes(-len(raw) % 4096)
        self.reads = []

    def read(self, offset, buf):
        self.reads.append((offset, len(buf)))
        assert offset % 4096 == len(buf) % 4096 == 0
        assert offset + len(buf) <= len(self.data)
        buf[:] = self.data[offset : offset + len(buf)]


@pytest.mark.parametrize("length", [0, 3000, 5000, 65536 - 288])
def test_loading_reads_no_more_than_the_manifest_takes(length):
    raw = build(kind=1, signature=bytes(length), block=65536)
    store = Store(raw)
    assert bytes(Manifest.load(store.read, 65536).raw) == raw
    assert sum(n for _, n in store.reads) == len(store.data)


def test_loading_reads_nothing_beyond_the_room_there_is():
    raw = bytearray(build())
    struct.pack_into("<I", raw, 12, 8192)
    store = Store(bytes(raw))
    with pytest.raises(LifeboatError) as caught:
        Manifest.load(store.read, 4096)
    assert caught.value.code == "manifest-size"
    assert store.reads == [(0, 4096)]


def test_only_code_for_this_board_is_accepted():
    m = Manifest(build())
    m.accept("sim", 4096, 3)
    for code, args in (
        ("manifest-product", ("other", 4096, 3)),
        ("manifest-board", ("sim", 8192, 3)),
        ("manifest-board", ("sim", 4096, 2)),
    ):
        with pytest.raises(LifeboatError) as caught:
            m.accept(*args)
        assert caught.value.code == code
