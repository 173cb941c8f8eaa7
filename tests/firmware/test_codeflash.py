"""The code flash as blocks: mapped and not, blocks of one and of several erase blocks."""

import struct
import zlib
from errno import EINVAL, EIO, EROFS, ETIMEDOUT

import pytest

from fakes import board as sim
from lifeboat.codeflash import CodeFlash
from lifeboat.errors import LifeboatError
from lifeboat.manifest import Manifest
from lifeboat.trust import Trust
from sim.nor import RamFlash
from sim.power import Power, PowerCut

# (erase size, block size): equal, a multiple, more than the reading buffer, no multiple of it
SIZES = [(4096, 4096), (4096, 8192), (1024, 4096), (65536, 65536), (4096, 20480), (8192, 24576)]

geometries = pytest.mark.parametrize("erase, block", SIZES)
mappings = pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])


def make(erase, block, mapped=True, content=None):
    data = bytearray(content or sim.image(block=block, blocks=3, total=5))
    return RamFlash(data, erase, mapped=mapped)


class Board:
    PRODUCT = "sim"


def read(flash):
    """The manifest in flash, as whoever trusts the image's product reads it."""
    board = Board()
    board.BLOCK_SIZE = flash.block_size
    return flash.manifest(Trust(board, flash))


@geometries
@mappings
def test_the_crc_of_a_block_is_zlibs(erase, block, mapped):
    nor = make(erase, block, mapped)
    flash = CodeFlash(nor, block)
    assert flash.manifest_block == 4
    for i in range(5):
        assert flash.crc(i) == zlib.crc32(nor.data[i * block : (i + 1) * block])


@mappings
def test_the_crc_of_a_piece_goes_on_and_feeds_a_digest(mapped):
    nor = make(4096, 20480, mapped)
    flash = CodeFlash(nor, 20480)
    fed = []

    class Digest:
        def update(self, data):
            fed.append(bytes(data))

    first = flash.crc(1, 100, 5000)
    assert first == zlib.crc32(nor.data[20580:25580])
    want = nor.data[25580:40960]
    assert flash.crc(1, 5100, 15380, first, Digest()) == zlib.crc32(want, first)
    assert b"".join(fed) == want


@geometries
@mappings
def test_the_manifest_is_found_in_the_last_block(erase, block, mapped):
    nor = make(erase, block, mapped)
    manifest, blank = read(CodeFlash(nor, block))
    assert bytes(manifest.raw) == sim.manifest(bytes(nor.data[: 3 * block]), block)
    assert blank


@geometries
@mappings
def test_one_byte_of_padding_is_noticed_wherever_it_stands(erase, block, mapped):
    nor = make(erase, block, mapped)
    flash = CodeFlash(nor, block)
    first = 4 * block + len(read(flash)[0].raw)
    for at in (first, first + 1, (first + 5 * block) // 2, 5 * block - 1):
        nor.data[at] = 0xFE
        assert not read(flash)[1]
        nor.data[at] = 0xFF
    assert read(flash)[1]


@geometries
@mappings
def test_a_manifest_that_claims_more_than_its_block_is_bad_and_nothing_else(erase, block, mapped):
    nor = make(erase, block, mapped)
    for size in (block + 1, 2 * block + 1, 3 * block, 65536, 65537, 0xFFFFFFFF):
        nor.data[4 * block + 12 : 4 * block + 16] = size.to_bytes(4, "little")
        with pytest.raises(LifeboatError) as caught:
            read(CodeFlash(nor, block))
        assert caught.value.code in ("manifest-size", "manifest-crc")


def manifest_of(nor, block, blocks=3):
    """A Manifest of the code in flash, by the format alone."""
    return Manifest(sim.manifest(bytes(nor.data[: blocks * block]), block))


def refused(action, *args):
    with pytest.raises(LifeboatError) as caught:
        action(*args)
    return caught.value.code


@geometries
@mappings
def test_programming_a_block_changes_that_block_only(erase, block, mapped):
    nor = make(erase, block, mapped)
    before = bytes(nor.data)
    manifest = manifest_of(nor, block)
    nor.data[2 * block : 3 * block] = sim.noise(9, block)
    flash = CodeFlash(nor, block)
    flash.program(manifest, 2, before[2 * block : 3 * block])
    assert nor.data == before
    assert flash.erases == 1 and nor.erases == block // erase


@geometries
def test_what_follows_a_manifest_is_erased(erase, block):
    nor = make(erase, block)
    raw = sim.manifest(bytes(nor.data[: 3 * block]), block, version="2.0")
    nor.data[-1] = 0
    flash = CodeFlash(nor, block)
    flash.program_manifest(Manifest(raw))
    assert nor.data[4 * block :] == raw.ljust(block, b"\xff")
    assert flash.erases == 1 and flash.holds(Manifest(raw))


@geometries
@mappings
def test_a_drill_erases_one_block(erase, block, mapped):
    nor = make(erase, block, mapped)
    before = bytes(nor.data)
    flash = CodeFlash(nor, block)
    flash.erase(1)
    assert nor.data == before[:block] + b"\xff" * block + before[2 * block :]
    assert flash.erases == 1


# I1, I12: what goes into flash has both sums of the manifest, at the lowest layer


def with_sums(nor, block, crc=None, digest=None):
    """A manifest whose sums of block 1 are these."""
    raw = bytearray(sim.manifest(bytes(nor.data[: 3 * block]), block)[:-4])
    if crc is not None:
        struct.pack_into("<I", raw, 128 + 48 + 4, crc)
    if digest is not None:
        raw[128 + 48 + 12 + 32 : 128 + 48 + 12 + 64] = digest
    return Manifest(bytes(raw) + struct.pack("<I", zlib.crc32(raw)))


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    "what", ["content", "bit", "other block", "short", "long", "empty", "crc only", "digest only"]
)
def test_wrong_bytes_are_refused_before_the_flash_is_touched(what, mapped):
    block = 4096
    nor = make(4096, block, mapped)
    good = bytes(nor.data[block : 2 * block])
    manifest = manifest_of(nor, block)
    data = {
        "content": sim.noise(5, block),
        "bit": good[:-1] + bytes([good[-1] ^ 1]),
        "other block": bytes(nor.data[:block]),
        "short": good[:-1],
        "long": good + b"\xff",
        "empty": b"",
    }.get(what, good)
    if what == "crc only":
        manifest = with_sums(nor, block, digest=bytes(32))
    if what == "digest only":
        manifest = with_sums(nor, block, crc=zlib.crc32(good) ^ 1)
    before = bytes(nor.data)
    flash = CodeFlash(nor, block)
    assert refused(flash.program, manifest, 1, data) == "digest-wrong"
    assert nor.data == before and (nor.erases, nor.programs, flash.erases) == (0, 0, 0)
    assert nor.power.count == 0


# Flash that does not do as it is told


def protect(nor, how):
    ioctl = nor.ioctl

    def refuse(op, arg):
        if op != 6:
            return ioctl(op, arg)
        if how == "refuses":
            raise OSError(EROFS, "locked")
        return 0

    nor.ioctl = refuse


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("how", ["refuses", "ignores"])
@pytest.mark.parametrize("what", ["block", "manifest", "drill"])
def test_a_chip_that_is_write_protected_is_told_and_not_counted(what, how, mapped):
    nor = make(4096, 4096, mapped)
    manifest = manifest_of(nor, 4096)
    good = bytes(nor.data[4096:8192])
    nor.data[5000] ^= 1
    nor.data[-1] = 0
    before = bytes(nor.data)
    protect(nor, how)
    flash = CodeFlash(nor, 4096)
    action = {
        "block": lambda: flash.program(manifest, 1, good),
        "manifest": lambda: flash.program_manifest(manifest),
        "drill": lambda: flash.erase(1),
    }[what]
    assert refused(action) == "flash-locked"
    assert flash.erases == 0 and nor.programs == 0 and nor.data == before


def test_an_erase_that_can_not_be_told_from_none_counts():
    """A block that was blank already: that a chip ignored the command nobody can see."""
    nor = make(4096, 4096)
    manifest = manifest_of(nor, 4096)
    good = bytes(nor.data[4096:8192])
    nor.data[4096:8192] = b"\xff" * 4096
    flash = CodeFlash(nor, 4096)
    flash.program(manifest, 1, good)
    assert flash.erases == 1 and nor.data[4096:8192] == good


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("at", [0, 300, 4095])
def test_a_byte_that_does_not_take_its_value_is_told(at, mapped):
    nor = make(4096, 4096, mapped)
    manifest = manifest_of(nor, 4096)
    good = bytes(nor.data[4096:8192])
    nor.data[4096 + at] ^= 1
    nor.stuck = (4096 + at,)
    flash = CodeFlash(nor, 4096)
    assert refused(flash.program, manifest, 1, good) == "flash-verify"
    assert flash.erases == 1


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("at", [0, 100, 3000])
def test_a_byte_of_the_manifest_that_does_not_take_its_value_is_told(at, mapped):
    nor = make(4096, 4096, mapped)
    manifest = manifest_of(nor, 4096)
    nor.data[4 * 4096 + at] = 0x5A
    nor.stuck = (4 * 4096 + at,)
    flash = CodeFlash(nor, 4096)
    assert refused(flash.program_manifest, manifest) == "flash-verify"
    assert flash.erases == 1 and not flash.holds(manifest)


@pytest.mark.parametrize("errno, cured", [(EIO, True), (ETIMEDOUT, False)])
def test_an_erase_may_cure_a_block_that_can_not_be_read(errno, cured):
    nor = make(4096, 4096, mapped=False)
    manifest = manifest_of(nor, 4096)
    good = bytes(nor.data[4096:8192])
    readblocks = nor.readblocks

    def fail(block, buf, offset=0):
        if block == 1 and not nor.erases:
            raise OSError(errno, "flash")
        readblocks(block, buf, offset)

    nor.readblocks = fail
    flash = CodeFlash(nor, 4096)
    if cured:
        flash.program(manifest, 1, good)
        assert nor.data[4096:8192] == good and flash.erases == 1
    else:
        with pytest.raises(OSError):
            flash.program(manifest, 1, good)
        assert nor.erases == 0


@pytest.mark.parametrize("errno", [EIO, ETIMEDOUT])
def test_an_erase_that_fails_is_an_error_and_not_counted(errno):
    nor = make(4096, 4096)
    manifest = manifest_of(nor, 4096)
    good = bytes(nor.data[4096:8192])
    nor.data[4096] ^= 1
    ioctl = nor.ioctl

    def fail(op, arg):
        if op == 6:
            raise OSError(errno, "erase")
        return ioctl(op, arg)

    nor.ioctl = fail
    flash = CodeFlash(nor, 4096)
    with pytest.raises(OSError) as caught:
        flash.program(manifest, 1, good)
    assert caught.value.errno == errno and flash.erases == 0


# Where the memory is (format.md section 6)


@pytest.mark.parametrize(
    "erase, block, total, unit, first, count",
    [
        (4096, 4096, 64, 1, 55, 8),  # a record is at least 256 bytes: M = 64 * 256 = 4 blocks
        (4096, 4096, 64, 256, 55, 8),
        (4096, 4096, 64, 512, 47, 16),
        (4096, 16384, 8, 1, 5, 2),
        (4096, 20480, 8, 1, 5, 2),  # M = 1 block, more than 64 records
        (65536, 65536, 4, 1024, 1, 2),
        (4096, 4096, 10, 1, 1, 8),
        (4096, 4096, 9, 1, None, 0),  # a block of code is to be left
        (65536, 65536, 3, 1, None, 0),
    ],
)
def test_the_memory_is_before_the_manifest_block(erase, block, total, unit, first, count):
    nor = RamFlash(bytearray(total * block), erase)
    nor.program_size = unit
    window = CodeFlash(nor, block).memory()
    if first is None:
        assert window is None
        return
    nor.data[first * block : (first + count) * block] = sim.noise(3, count * block)
    assert window.count * window.size == count * block
    assert bytes(window.view(0, count * block)) == sim.noise(3, count * block)
    with pytest.raises(OSError):
        window.erase_blocks(window.count, 1)
    with pytest.raises(OSError):
        window.writeblocks(0, b"x", count * block)


# Manifests larger than a block: (blocks of the flash, of code, of the memory, of the manifest)

B = 4096
LARGE = [(200, 190, 8, 2), (200, 150, 0, 2), (300, 250, 8, 3), (300, 225, 72, 3)]
larges = pytest.mark.parametrize("total, code, memory, own", LARGE)


def large(code, memory, own, version="1.0"):
    """A manifest of format.md section 2 with manifest_blocks, over code of one seed."""
    content = sim.noise(8, code * B)
    raw = bytearray(sim.manifest(content, B, version=version)[:-4])
    raw[9] = 2
    struct.pack_into("<HH", raw, 104, memory, own)
    return content, bytes(raw) + struct.pack("<I", zlib.crc32(raw))


def parts(raw, total, memory, own):
    """[(first byte in flash, bytes of a block)] as section 1 has them."""
    places = [total - memory - own + i for i in range(own - 1)] + [total - 1]
    pieces = [raw[B * i : B * (i + 1)].ljust(B, b"\xff") for i in range(1, own)] + [raw[:B]]
    return [(at * B, piece) for at, piece in zip(places, pieces)]


def large_flash(total, code, memory, own, power=None, version=None, mapped=True):
    """A flash with such code, a memory of noise, and the manifest of a version, or none."""
    content, raw = large(code, memory, own, version or "1.0")
    nor = RamFlash(bytearray(b"\xff" * (total * B)), B, power, mapped)
    nor.data[: len(content)] = content
    nor.data[(total - 1 - memory) * B : (total - 1) * B] = sim.noise(4, memory * B)
    if version:
        for at, piece in parts(raw, total, memory, own):
            nor.data[at : at + B] = piece
    return nor


@larges
def test_the_sizes_of_these_tests_are_those_of_the_format(total, code, memory, own):
    raw = large(code, memory, own)[1]
    assert len(raw) == 128 + 48 + 36 * code + 4
    assert (own - 1) * B < len(raw) <= own * B and code + memory + own <= total


@larges
@mappings
def test_a_manifest_larger_than_a_block_is_read(total, code, memory, own, mapped):
    nor = large_flash(total, code, memory, own, version="2.0", mapped=mapped)
    flash = CodeFlash(nor, B)
    manifest, blank = read(flash)
    raw = large(code, memory, own, "2.0")[1]
    assert bytes(manifest.raw) == raw and blank and flash.holds(manifest)
    assert flash.erases == nor.power.count == 0


@larges
@mappings
def test_its_padding_is_looked_at(total, code, memory, own, mapped):
    nor = large_flash(total, code, memory, own, version="2.0", mapped=mapped)
    flash = CodeFlash(nor, B)
    manifest, _ = read(flash)
    end = (total - memory - 1) * B
    start = end - (own * B - len(manifest.raw))
    for at in {start, (start + end) // 2, end - 1}:
        nor.data[at] = 0xFE
        assert not read(flash)[1] and not flash.holds(manifest)
        nor.data[at] = 0xFF
    # What stands before it and behind it is no padding: code, and the memory.
    nor.data[start - (len(manifest.raw) - B) - 1] ^= 1
    if memory:
        nor.data[end] ^= 1
    assert read(flash)[1] and flash.holds(manifest)


@larges
def test_every_part_of_it_counts(total, code, memory, own):
    nor = large_flash(total, code, memory, own, version="2.0")
    flash = CodeFlash(nor, B)
    manifest, _ = read(flash)
    for at, piece in parts(bytes(manifest.raw), total, memory, own):
        used = len(piece.rstrip(b"\xff"))
        for offset in (0, used // 2, used - 1):
            nor.data[at + offset] ^= 1
            assert refused(read, flash).startswith("manifest-")
            assert not flash.holds(manifest)
            nor.data[at + offset] ^= 1
    assert flash.holds(manifest)


@larges
@mappings
def test_its_beginning_is_written_last(total, code, memory, own, mapped):
    nor = large_flash(total, code, memory, own, version="1.0", mapped=mapped)
    before = bytes(nor.data)
    raw = large(code, memory, own, "2.0")[1]
    flash = CodeFlash(nor, B)
    flash.program_manifest(Manifest(raw))
    want = bytearray(before)
    for at, piece in parts(raw, total, memory, own):
        want[at : at + B] = piece
    assert nor.data == want and flash.erases == own
    places = [at for at, _ in parts(raw, total, memory, own)]
    assert [at for _, op, at in nor.power.log if op == "erase"] == places


@pytest.mark.parametrize("old", [None, "1.0"], ids=["blank", "old"])
@pytest.mark.parametrize("torn", [False, True], ids=["cut", "torn"])
@larges
def test_a_manifest_that_was_cut_short_is_never_taken_for_whole(
    sweep, total, code, memory, own, torn, old
):
    new = large(code, memory, own, "2.0")[1]
    undisturbed = large_flash(total, code, memory, own, version=old)
    before = bytes(undisturbed.data)
    CodeFlash(undisturbed, B).program_manifest(Manifest(new))
    operations = undisturbed.power.count
    assert operations == 2 * own
    for cut in sweep.cuts(range(1, operations + 1)):
        power = Power(cut, torn)
        nor = large_flash(total, code, memory, own, power, old)
        sweep.shows(flash=nor)
        with pytest.raises(PowerCut):
            CodeFlash(nor, B).program_manifest(Manifest(new))
        nor.power = Power()
        flash = CodeFlash(nor, B)
        try:
            found = bytes(read(flash)[0].raw)
        except LifeboatError:
            found = None
        if found is not None:
            untouched = nor.data == before
            assert untouched or nor.data == undisturbed.data, (cut, torn)
            assert found == (large(code, memory, own, old)[1] if untouched else new)
        assert flash.holds(Manifest(new)) == (nor.data == undisturbed.data)
        flash.program_manifest(Manifest(new))
        assert nor.data == undisturbed.data


@pytest.mark.parametrize(
    "memory, own",
    [(0, 2), (8, 1), (8, 3), (8, 0), (65534, 2), (8, 65535), (65534, 65535), (200, 2), (198, 2),
     (7, 2)],
)  # fmt: skip
def test_a_head_that_sends_its_reader_elsewhere_is_refused(memory, own):
    """Its CRC is right: both numbers are checked before they lead anywhere."""
    nor = large_flash(200, 190, 8, 2, version="1.0")
    raw = bytearray(large(190, 8, 2)[1][:-4])
    struct.pack_into("<HH", raw, 104, memory, own)
    raw += struct.pack("<I", zlib.crc32(raw))
    for at, piece in parts(bytes(raw), 200, 8, 2):
        nor.data[at : at + B] = piece
    assert refused(read, CodeFlash(nor, B)).startswith("manifest-")


@mappings
def test_map_gives_any_piece(mapped):
    nor = make(4096, 4096, mapped)
    piece = CodeFlash(nor, 4096).map(4000, 5000)
    assert bytes(piece) == nor.data[4000:9000]


@pytest.mark.parametrize(
    "erase, block, size",
    [(8192, 4096, 40960), (4096, 6144, 49152), (4096, 12288, 40960), (1024, 1024, 4096)],
)
def test_blocks_that_do_not_fit_the_flash_are_refused(erase, block, size):
    with pytest.raises(OSError) as caught:
        CodeFlash(RamFlash(bytearray(size), erase), block)
    assert caught.value.args[0] == EINVAL
