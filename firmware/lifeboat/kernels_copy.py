"""copy32 of mmio.py for MicroPython's viper emitter, on 32-bit and 64-bit machines."""

# Viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython


# Sixteen words a turn while the source is aligned: each store is a bus cycle to a slow device, the
# rest of the loop should not show. The first two locals live in registers.
@micropython.viper
def copy32(d: ptr32, s: ptr32, offset: int, nbytes: int):
    s = ptr32(int(s) + offset)
    end = int(d) + nbytes
    if int(s) & 3 == 0:
        stop = int(d) + (nbytes & -64)
        while int(d) != stop:
            d[0] = s[0]
            d[1] = s[1]
            d[2] = s[2]
            d[3] = s[3]
            d[4] = s[4]
            d[5] = s[5]
            d[6] = s[6]
            d[7] = s[7]
            d[8] = s[8]
            d[9] = s[9]
            d[10] = s[10]
            d[11] = s[11]
            d[12] = s[12]
            d[13] = s[13]
            d[14] = s[14]
            d[15] = s[15]
            d = ptr32(int(d) + 64)
            s = ptr32(int(s) + 64)
    while int(d) != end:
        b = ptr8(s)
        d[0] = b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24
        d = ptr32(int(d) + 4)
        s = ptr32(int(s) + 4)
