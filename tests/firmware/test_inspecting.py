"""S1 names exactly the damaged blocks, and why a manifest is not to be used."""

import pytest

from fakes import board as sim
from fakes.flash import RamFlash
from lifeboat.codeflash import CodeFlash
from lifeboat.inspecting import damaged_blocks, inspect

SIZE = 4096
MANIFEST_AT = 8 * SIZE


def flash_of(data, mapped=True):
    return CodeFlash(RamFlash(data, SIZE, mapped=mapped), SIZE)


def test_intact_code_is_intact():
    found = inspect(flash_of(sim.image()), "sim")
    assert found.intact and not found.damaged
    assert (found.manifest_state, found.bad, found.code) == ("ok", [], None)
    assert found.manifest.version == "1.0"


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("blocks", [(0,), (5,), (0, 5), (1, 2, 3), (0, 1, 2, 3, 4, 5)], ids=str)
def test_one_bit_in_a_block_is_enough(blocks, mapped):
    data = sim.image()
    for i, block in enumerate(blocks):
        data[block * SIZE + (0, SIZE - 1, 77)[i % 3]] ^= 1 << i
    found = inspect(flash_of(data, mapped), "sim")
    assert found.bad == list(blocks)
    assert found.damaged and not found.intact and found.manifest_state == "ok"


def test_blocks_that_are_not_code_are_not_looked_at():
    data = sim.image()
    data[6 * SIZE : 8 * SIZE] = b"x" * (2 * SIZE)
    assert not inspect(flash_of(data), "sim").damaged


def test_bytes_after_the_manifest_are_padding_to_repair_but_the_code_is_intact():
    data = sim.image()
    data[-1] = 0
    found = inspect(flash_of(data), "sim")
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
    assert (found.code, found.manifest, found.manifest_state) == (code, None, "bad")
    assert found.damaged and not found.intact


def test_a_manifest_for_other_block_numbers_is_not_to_be_used():
    data = sim.image()
    m = sim.manifest(sim.noise(1, 4 * 8192), 8192)
    data[MANIFEST_AT : MANIFEST_AT + len(m)] = m
    assert inspect(flash_of(data), "sim").code == "manifest-board"


def test_chosen_blocks_are_looked_at_again():
    data = sim.image()
    flash = flash_of(data)
    manifest = inspect(flash, "sim").manifest
    data[0] ^= 1
    data[3 * SIZE] ^= 1
    assert damaged_blocks(flash, manifest, [1, 3, 5]) == [3]
    assert damaged_blocks(flash, manifest) == [0, 3]
