"""Every kernel variant that runs here, over buffers of all alignments; one line per result.

The lines say what was computed; the test on the host compares them with zlib and crcmod.
"""

import sys
from array import array

from uctypes import addressof, bytearray_at

from fakes.rng import Rng
from lifeboat import evidence, kernels, kernels_plain, mmio, parity


class Memory:
    """machine.mem32 over the memory of this process; the unix port's own is physical memory."""

    def __getitem__(self, address):
        return int.from_bytes(bytearray_at(address, 4), "little")

    def __setitem__(self, address, value):
        bytearray_at(address, 4)[:] = (value & 0xFFFFFFFF).to_bytes(4, "little")


kernels_plain.mem32 = Memory()

VARIANTS = {"chosen": kernels, "plain": kernels_plain}
if sys.implementation._mpy >> 10 & 15:
    from lifeboat import (
        kernels_compare,
        kernels_copy,
        kernels_viper,
        kernels_viper_crc,
        kernels_xor,
    )  # fmt: skip

    VARIANTS["viper"] = kernels_viper
    VARIANTS["viper_crc"] = kernels_viper_crc
    VARIANTS["viper_copy"] = kernels_copy
    VARIANTS["viper_xor"] = kernels_xor
    VARIANTS["viper_compare"] = kernels_compare

LENGTHS = list(range(70)) + [255, 256, 257, 4095, 4096, 4097, 65536 + 3]
DATA = Rng("kernels").bytes(65536 + 64)


def crc_lines(name, crc32):
    for length in LENGTHS:
        for start in (0, 1, 2, 3, 5):
            view = memoryview(DATA)[start : start + length]
            print("crc", name, start, length, crc32(view))
            half = length // 2
            print("crc", name, start, length, crc32(view[half:], crc32(view[:half])))
    for seed in (1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        print("crc-from", name, seed, crc32(DATA[:1000], seed))
    print("crc-check", name, crc32(b"123456789"))
    print("crc-check", name, crc32(bytearray(b"123456789")))


def blank_lines(name, blank):
    for length in LENGTHS[:80]:
        buf = bytearray(b"\xff" * (length + 8))
        for start in (0, 1, 2, 3):
            view = memoryview(buf)[start : start + length]
            assert blank(view) is True, (name, start, length)
            for at in {0, length // 2, length - 1}:
                if 0 <= at < length:
                    for value in (0, 0x7F, 0xFE):
                        view[at] = value
                        assert blank(view) is False, (name, start, length, at, value)
                    view[at] = 0xFF
        # what stands before and after does not count
        buf[0] = buf[-1] = 0
        assert blank(memoryview(buf)[1:-1]) is True
    print("blank", name, "ok")


def poll_lines(name, poll32):
    word = bytearray(b"\x78\x56\x34\x92")
    at = addressof(word)
    for mask, want, result in (
        (0xFF, 0x78, True), (0xFF, 0x79, False), (0xFFFFFFFF, 0x92345678, True), (0, 0, True),
        (0x80000000, 0x80000000, True), (0x80000000, 0, False), (0x40000000, 0, True),
        (0xFFFF0000, 0x92340000, True), (0xFFFFFFFF, 0x12345678, False),
    ):  # fmt: skip
        for spins in (1, 5):
            assert poll32(at, mask, want, spins) is result, (name, mask, want)
    assert poll32(at, 0, 0, 0) is False
    print("poll32", name, "ok")


def copy_lines(name, copy32):
    for nbytes in (0, 4, 8, 60, 64, 68, 128, 4096):
        for offset in (0, 1, 2, 3, 4, 64):
            room = bytearray(nbytes + 12)
            to = (addressof(room) + 7) & ~3
            first = to - addressof(room)
            copy32(to, DATA, offset, nbytes)
            want = bytearray(len(room))
            want[first : first + nbytes] = DATA[offset : offset + nbytes]
            assert room == want, (name, nbytes, offset)
    print("copy32", name, "ok")


def xor_lines(name, xor):
    for nbytes in (0, 16, 4096):
        buf = bytearray(DATA[: nbytes + 16])
        xor(memoryview(buf)[:nbytes], memoryview(DATA)[64 : 64 + nbytes])
        for i in range(nbytes):
            assert buf[i] == DATA[i] ^ DATA[64 + i], (name, nbytes, i)
        assert buf[nbytes:] == DATA[nbytes : nbytes + 16]
    print("xor", name, "ok")


def compare_lines(name, compare):
    was, right = bytearray(DATA[:700]), bytearray(DATA[:700])
    for at, value in ((0, 0xFF), (1, 0), (5, 0xFF), (300, 0x5A), (301, 0xA5), (699, 0xFF)):
        was[at] = value
    for start in (0, 4, 300):
        for other in (start, start + 4):
            for length in (4, 64, 388):
                a = memoryview(was)[start : start + length]
                b = memoryview(right)[other : other + length]
                counts = array("I", [7, 0, 0, 0])
                compare(a, b, counts)
                pairs = [(x, y) for x, y in zip(a, b) if x != y]
                assert list(counts) == [
                    7 + sum([bin(x & ~y).count("1") for x, y in pairs]),
                    sum([bin(y & ~x).count("1") for x, y in pairs]),
                    len(pairs),
                    sum([x == 255 for x, _ in pairs]),
                ], (name, start, other, length)
    print("compare", name, "ok")


for name in sorted(VARIANTS):
    module = VARIANTS[name]
    for function, lines in (
        ("crc32", crc_lines), ("blank", blank_lines),
        ("poll32", poll_lines), ("copy32", copy_lines),
        ("xor", xor_lines), ("compare", compare_lines),
    ):  # fmt: skip
        if name == "chosen":
            module = {"copy32": mmio, "xor": parity, "compare": evidence}.get(function, kernels)
        if hasattr(module, function):
            lines(name, getattr(module, function))
print("waits", mmio.wait32(addressof(bytearray(b"\x01\0\0\0")), 1, 1, 10),
      mmio.wait32(addressof(bytearray(b"\x01\0\0\0")), 1, 0, 10))  # fmt: skip
print("done", " ".join(sorted(VARIANTS)))
