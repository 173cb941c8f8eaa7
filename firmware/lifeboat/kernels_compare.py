"""compare of evidence.py for MicroPython's viper emitter, on 32-bit and 64-bit machines."""

# Viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython


@micropython.viper
def _compare(was: ptr8, right: ptr8, n: int, counts: ptr32):
    i = 0
    while i < n:
        if (int(was) + i) & 3 == 0 and (int(right) + i) & 3 == 0:
            w = ptr32(int(was) + i)
            r = ptr32(int(right) + i)
            left = n - i
            while left > 3 and w[0] == r[0]:
                w = ptr32(int(w) + 4)
                r = ptr32(int(r) + 4)
                left -= 4
            i = n - left
            if left == 0:
                return
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
        i += 1


def compare(was, right, counts):
    _compare(was, right, len(was), counts)
