"""The CRCs of sdspi.py in plain Python, with the kernel of one.

sums(buf, size, out)    puts the CRC-16 of each `size` bytes of buf into out, as on the bus
"""

from lifeboat.kernels import crc16


def sums(buf, size, out):
    for i in range(len(buf) // size):
        crc = crc16(buf[i * size : i * size + size])
        out[2 * i] = crc >> 8
        out[2 * i + 1] = crc & 0xFF
