"""xor of parity.py for MicroPython's viper emitter, on 32-bit and 64-bit machines."""

# Viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython


@micropython.viper
def _xor(d: ptr32, s: ptr32, n: int):
    end = int(d) + n
    while int(d) != end:
        d[0] ^= s[0]
        d[1] ^= s[1]
        d[2] ^= s[2]
        d[3] ^= s[3]
        d = ptr32(int(d) + 16)
        s = ptr32(int(s) + 16)


def xor(buf, other):
    _xor(buf, other, len(buf))
