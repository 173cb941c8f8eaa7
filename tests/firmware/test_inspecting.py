"""S1 names exactly the damaged blocks, and why a manifest is not to be used."""

import struct
import zlib
from errno import EIO, ETIMEDOUT

import pytest

from fakes import board as sim
from lifeboat.codeflash import CodeFlash
from lifeboat.errors import LifeboatError
from lifeboat.inspecting import Inspection, damaged_blocks
from lifeboat.inspecting import inspect as inspected
from lifeboat.trust import Trust
from sim.nor import RamFlash

SIZE = 4096
MANIFEST_AT = 8 * SIZE


def flash_of(data, mapped=True):
    return CodeFlash(RamFlash(data, SIZE, mapped=mapped), SIZE)


class Board:
    BLOCK_SIZE = SIZE

    def __init__(self, product):
        self.PRODUCT = product


def inspect(flash, product="sim"):
    """As a power-on takes it."""
    try:
        return inspected(flash, Trust(Board(product), flash))
    except LifeboatError as error:
        return Inspection(error.code, error.detail)


def test_intact_code_is_intact():
    found = inspect(flash_of(sim.image()))
    assert found.intact and not found.damaged
    assert (found.manifest_state, found.bad, found.why) == ("ok", [], None)
    assert found.manifest.version == "1.0"


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("blocks", [(0,), (5,), (0, 5), (1, 2, 3), (0, 1, 2, 3, 4, 5)], ids=str)
def test_one_bit_in_a_block_is_enough(blocks, mapped):
    data = sim.image()
    for i, block in enumerate(blocks):
        data[block * SIZE + (0, SIZE - 1, 77)[i % 3]] ^= 1 << i
    found = inspect(flash_of(data, mapped))
    assert found.bad == list(blocks)
    assert found.damaged and not found.intact and found.manifest_state == "ok"


def test_blocks_that_are_not_code_are_not_looked_at():
    data = sim.image()
    data[6 * SIZE : 8 * SIZE] = b"x" * (2 * SIZE)
    assert not inspect(flash_of(data)).damaged


def test_bytes_after_the_manifest_are_padding_to_repair_but_the_code_is_intact():
    data = sim.image()
    data[-1] = 0
    found = inspect(flash_of(data))
    assert found.manifest_state == "padding" and found.intact and found.damaged


@pytest.mark.parametrize(
    "code, product, at, value",
    [
        ("manifest-magic", "sim", 0, 0xFF),
        ("manifest-crc", "sim", 200, 0),
        ("manifest-crc", "sim", 8, 2),
        ("manifest-size", "sim", 13, 0xFF),
        ("manifest-product", "other", 9, 0),
    ],
)
def test_a_manifest_that_is_not_to_be_used_says_why(code, product, at, value):
    data = sim.image()
    data[MANIFEST_AT + at] = value
    found = inspect(flash_of(data), product)
    assert (found.why, found.manifest, found.manifest_state) == (code, None, "bad")
    assert found.damaged and not found.intact and found.bad == []


def test_a_manifest_for_other_block_numbers_is_not_to_be_used():
    data = sim.image()
    m = sim.manifest(sim.noise(1, 4 * 8192), 8192)
    data[MANIFEST_AT : MANIFEST_AT + len(m)] = m
    assert inspect(flash_of(data)).why == "manifest-board"


def test_chosen_blocks_are_looked_at_again():
    data = sim.image()
    flash = flash_of(data)
    manifest = inspect(flash).manifest
    data[0] ^= 1
    data[3 * SIZE] ^= 1
    assert damaged_blocks(flash, manifest, [1, 3, 5]) == [3]
    assert damaged_blocks(flash, manifest) == [0, 3]


def changed(at, value, size=1):
    """A flash whose manifest has another value in a field, and a right CRC."""
    data = sim.image()
    total = struct.unpack_from("<I", data, MANIFEST_AT + 12)[0]
    data[MANIFEST_AT + at : MANIFEST_AT + at + size] = value.to_bytes(size, "little")
    crc = zlib.crc32(data[MANIFEST_AT : MANIFEST_AT + total - 4])
    struct.pack_into("<I", data, MANIFEST_AT + total - 4, crc)
    return data


@pytest.mark.parametrize("at, size", [(8, 1), (96, 4)], ids=["major", "incompat"])
def test_whole_code_of_a_newer_format_is_not_damage(at, size):
    """A person has to decide about it: it is neither run nor overwritten."""
    found = inspect(flash_of(changed(at, 2, size)))
    assert found.why == "manifest-version"
    assert not found.damaged and not found.intact


def test_code_that_must_not_be_written_runs_and_is_not_repaired():
    """A bit of ro_compat (format.md, "Words that forbid")."""
    data = changed(100, 1, 4)
    assert inspect(flash_of(data)).intact and not inspect(flash_of(data)).damaged
    data[5] ^= 1
    found = inspect(flash_of(data))
    assert found.bad == [0] and not found.intact and not found.damaged


@pytest.mark.parametrize(
    "why, damaged",
    [
        ("policy", False), ("manifest-version", False), ("manifest-magic", True),
        ("flash-failed", True), (None, True),
    ],
)  # fmt: skip
def test_without_a_manifest_nothing_is_intact(why, damaged):
    found = Inspection(why, "detail")
    assert (found.damaged, found.intact, found.manifest_state) == (damaged, False, "bad")
    assert (found.why, found.detail, found.bad) == (why, "detail", [])


# Flash that can't be read


def unreadable(block, errno):
    nor = RamFlash(sim.image(), SIZE, mapped=False)
    read = nor.readblocks

    def readblocks(at, buf, offset=0):
        first = at * SIZE + offset
        if first < (block + 1) * SIZE and first + len(buf) > block * SIZE:
            raise OSError(errno, "flash")
        read(at, buf, offset)

    nor.readblocks = readblocks
    return CodeFlash(nor, SIZE)


def test_a_block_that_can_not_be_read_is_damaged():
    """An erase may cure it."""
    found = inspect(unreadable(3, EIO))
    assert found.bad == [3] and found.manifest_state == "ok"


@pytest.mark.parametrize("block, errno", [(3, ETIMEDOUT), (8, ETIMEDOUT), (8, EIO)])
def test_a_flash_that_does_not_answer_is_not_inspected(block, errno):
    with pytest.raises(OSError) as caught:
        inspect(unreadable(block, errno))
    assert caught.value.errno == errno
