"""The kernels in plain Python give the values of zlib and crcmod, and touch devices as they say.

The variants in machine code run in MicroPython only: tests/unix and tests/qemu hold them to the
same values.
"""

import zlib

import crcmod.predefined
import machine
import pytest

from cpython_floor import Clock
from fakes.rng import Rng
from lifeboat import kernels, kernels_plain, mmio

CRC32 = crcmod.predefined.mkCrcFun("crc-32")
CRC16 = crcmod.predefined.mkCrcFun("xmodem")
DATA = Rng("kernels").bytes(5000)
LENGTHS = [*range(70), 255, 256, 257, 511, 512, 4095, 4096, 4097]


class Registers:
    """Eight words that count up by one at each read; writes are kept in order."""

    def __init__(self):
        self.words = [0] * 8
        self.writes = []

    def read32(self, offset):
        self.words[offset // 4] += 1
        return self.words[offset // 4] - 1

    def write32(self, offset, value):
        self.writes.append((offset, value))


@pytest.fixture
def registers():
    machine.mem32.clear()
    device = Registers()
    machine.mem32.attach(0x1000, 0x100, device)
    yield device
    machine.mem32.clear()


def test_plain_kernels_are_chosen_without_an_emitter():
    for name in ("crc32", "crc16", "blank", "poll32", "fence"):
        assert getattr(kernels, name) is getattr(kernels_plain, name)
    assert mmio.copy32 is kernels_plain.copy32


def test_the_check_values():
    assert kernels.crc32(b"123456789") == 0xCBF43926
    assert kernels.crc16(b"123456789") == 0x31C3


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_crc_is_zlibs_and_crcmods(kind):
    for n in LENGTHS:
        for start in (0, 1, 3):
            data = DATA[start : start + n]
            want = zlib.crc32(data)
            assert kernels.crc32(kind(data)) == want == CRC32(data)
            assert kernels.crc16(kind(data)) == CRC16(data)
            half = n // 2
            assert kernels.crc32(data[half:], kernels.crc32(kind(data[:half]))) == want
    for seed in (1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        assert kernels.crc32(DATA, seed) == zlib.crc32(DATA, seed)


def test_blank_finds_every_bit():
    assert kernels.blank(b"") and kernels.blank(memoryview(b"\xff"))
    for n in (1, 2, 255, 256, 257, 600):
        buf = bytearray(b"\xff" * n)
        assert kernels.blank(buf) and kernels.blank(bytes(buf))
        for at in {0, n // 2, n - 1}:
            for bit in range(8):
                buf[at] ^= 1 << bit
                assert not kernels.blank(memoryview(buf)), (n, at, bit)
                buf[at] ^= 1 << bit


def test_a_poll_reads_until_the_word_comes_and_no_more(registers):
    assert kernels.poll32(0x1004, 0xFF, 5, 100)
    assert registers.words[:3] == [0, 6, 0]


@pytest.mark.parametrize("spins", [0, 1, 7])
def test_a_poll_ends_after_its_spins(registers, spins):
    assert not kernels.poll32(0x1000, 0xFFFF0000, 0x10000, spins)
    assert registers.words[0] == spins


def test_copies_are_words_to_ascending_addresses(registers):
    for kind in (bytes, memoryview):
        registers.writes.clear()
        mmio.copy32(0x1008, kind(bytes(range(0xF0, 0x100))), 3, 8)
        assert registers.writes == [(8, 0xF6F5F4F3), (12, 0xFAF9F8F7)]
    mmio.copy32(0x1008, b"", 0, 0)
    assert len(registers.writes) == 2


def test_a_wait_ends_with_the_word_or_the_time(registers, monkeypatch):
    clock = Clock(machine.mem32, 10)
    clock.rule(monkeypatch, mmio)
    assert mmio.wait32(0x1000, 0xFFFFFFFF, 9000, 500)
    assert 90 <= clock.ticks_ms() < 100
    began = clock.ticks_ms()
    assert not mmio.wait32(0x1000, 0, 1, 500)
    assert 500 <= clock.ticks_ms() - began < 600


def test_a_wait_looks_once_more_after_the_time(registers, monkeypatch):
    """A machine may have been stopped between the last look and the deadline."""
    clock = Clock(machine.mem32, 10)
    clock.rule(monkeypatch, mmio)
    monkeypatch.setattr(mmio, "poll32", lambda *args: clock.ticks_ms() >= 500)
    monkeypatch.setattr(mmio, "ticks_ms", lambda: clock.sleep_ms(600) or clock.ticks_ms())
    assert mmio.wait32(0x1000, 1, 1, 1)


def test_xor_is_that_of_long_integers():
    for n in (0, 16, 4096):
        buf, other = bytearray(DATA[:n]), DATA[500 : 500 + n]
        kernels_plain.xor(buf, other)
        want = int.from_bytes(DATA[:n], "big") ^ int.from_bytes(other, "big")
        assert bytes(buf) == want.to_bytes(n, "big")


def test_compare_counts_bits_and_bytes():
    counts = [0, 0, 0, 0]
    #               0 -> 1  0 -> 1, 1 -> 0    1 -> 0   equal  all ones
    was, right = b"\x03\xf0\x00\x77\xff", b"\x02\x0f\x81\x77\x7f"
    kernels_plain.compare(was, right, counts)
    assert counts == [1 + 4 + 1, 4 + 2, 4, 1]
