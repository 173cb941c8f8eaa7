"""The plain CRC-16 is crcmod's; tests/unix holds the machine code to the same."""

import crcmod.predefined
import pytest

from fakes.rng import Rng
from lifeboat.kernels_plain import crc16

XMODEM = crcmod.predefined.mkCrcFun("xmodem")
DATA = Rng("crc16").bytes(600)


def test_the_check_value_of_the_catalogues():
    assert crc16(b"123456789") == 0x31C3


def test_the_example_of_the_sd_specification():
    # Physical Layer Simplified Specification, 4.5: 512 bytes of 0xFF
    assert crc16(b"\xff" * 512) == 0x7FA1


@pytest.mark.parametrize("length", [*range(20), 511, 512, 513])
def test_every_length_is_crcmods(length):
    for start in range(4):
        piece = memoryview(DATA)[start : start + length]
        assert crc16(piece) == XMODEM(bytes(piece))


@pytest.mark.parametrize("crc", [1, 0x8000, 0xFFFF, 0x1234])
def test_it_goes_on_from_any_value(crc):
    assert crc16(DATA, crc) == XMODEM(DATA, crc)
    half = crc16(DATA[:77], crc)
    assert crc16(DATA[77:], half) == XMODEM(DATA, crc)


def test_a_block_and_its_crc_give_zero():
    assert crc16(DATA + crc16(DATA).to_bytes(2, "big")) == 0
