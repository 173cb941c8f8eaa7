"""compare of evidence.py for MicroPython's viper emitter, on 32-bit and 64-bit machines."""

# Viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython


@micropython.viper
def _compare(was: ptr8, right: ptr8, n: int, counts: ptr32):
    for i in range(n):
        a = was[i]
        b = right[i]
        if a != b:
            x = a & (a ^ b)
            while x:
                x &= x - 1
                counts[0] += 1
            x = b & (a ^ b)
            while x:
                x &= x - 1
                counts[1] += 1
            counts[2] += 1
            if a == 255:
                counts[3] += 1


def compare(was, right, counts):
    _compare(was, right, len(was), counts)
