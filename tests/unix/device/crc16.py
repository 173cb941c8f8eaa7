"""Every variant of kernels.crc16 that runs here; the test on the host compares with crcmod."""

import sys

from fakes.rng import Rng
from lifeboat import kernels, kernels_plain

VARIANTS = {"chosen": kernels, "plain": kernels_plain}
if sys.implementation._mpy >> 10 & 15:
    from lifeboat import kernels_viper_crc

    VARIANTS["viper"] = kernels_viper_crc

DATA = memoryview(Rng("crc16").bytes(5000))

for name in sorted(VARIANTS):
    crc16 = VARIANTS[name].crc16
    for length in list(range(40)) + [511, 512, 513, 4096]:
        for start in range(8):
            for crc in (0, 1, 0x8000, 0xFFFF):
                print(name, start, length, crc, crc16(DATA[start : start + length], crc))
