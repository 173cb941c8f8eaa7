"""The code flash as blocks: mapped and not, blocks of one and of several erase blocks."""

import zlib
from errno import EINVAL

import pytest

from fakes import board as sim
from fakes.flash import RamFlash
from lifeboat.codeflash import CodeFlash
from lifeboat.errors import LifeboatError

# (erase size, block size): equal, a multiple, more than the reading buffer, no multiple of it
SIZES = [(4096, 4096), (4096, 8192), (1024, 4096), (65536, 65536), (4096, 20480), (8192, 24576)]

geometries = pytest.mark.parametrize("erase, block", SIZES)
mappings = pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])


def make(erase, block, mapped=True, content=None):
    data = bytearray(content or sim.image(block=block, blocks=3, total=5))
    return RamFlash(data, erase, mapped=mapped)


@geometries
@mappings
def test_the_crc_of_a_block_is_zlibs(erase, block, mapped):
    nor = make(erase, block, mapped)
    flash = CodeFlash(nor, block)
    assert flash.manifest_block == 4
    for i in range(5):
        assert flash.crc(i) == zlib.crc32(nor.data[i * block : (i + 1) * block])


@geometries
@mappings
def test_the_manifest_is_found_in_the_last_block(erase, block, mapped):
    nor = make(erase, block, mapped)
    manifest, blank = CodeFlash(nor, block).manifest()
    assert bytes(manifest.raw) == sim.manifest(bytes(nor.data[: 3 * block]), block)
    assert blank


@geometries
@mappings
def test_one_byte_of_padding_is_noticed_wherever_it_stands(erase, block, mapped):
    nor = make(erase, block, mapped)
    flash = CodeFlash(nor, block)
    first = 4 * block + len(flash.manifest()[0].raw)
    for at in (first, first + 1, (first + 5 * block) // 2, 5 * block - 1):
        nor.data[at] = 0xFE
        assert not flash.manifest()[1]
        nor.data[at] = 0xFF
    assert flash.manifest()[1]


@geometries
@mappings
def test_a_manifest_that_claims_more_than_its_block_is_bad_and_nothing_else(erase, block, mapped):
    nor = make(erase, block, mapped)
    for size in (block + 1, 65536, 65537, 0xFFFFFFFF):
        nor.data[4 * block + 12 : 4 * block + 16] = size.to_bytes(4, "little")
        with pytest.raises(LifeboatError) as caught:
            CodeFlash(nor, block).manifest()
        assert caught.value.code in ("manifest-size", "manifest-crc")


@geometries
@mappings
def test_replacing_a_block_changes_that_block_only(erase, block, mapped):
    nor = make(erase, block, mapped)
    before = bytes(nor.data)
    flash = CodeFlash(nor, block)
    new = sim.noise(9, block)
    flash.replace(2, new)
    assert nor.data == before[: 2 * block] + new + before[3 * block :]
    assert flash.erases == 1 and nor.erases == block // erase


@geometries
def test_what_follows_short_data_is_erased(erase, block):
    nor = make(erase, block)
    CodeFlash(nor, block).replace(4, b"manifest")
    assert nor.data[4 * block :] == b"manifest" + b"\xff" * (block - 8)


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
