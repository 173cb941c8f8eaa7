"""What lifeboat asks of a disk driver, as named checks that run on the board itself.

For a porter: put the driver on the board, and run this file with a line added that makes the
device and names sectors whose content may be lost, at least 64:

    cp tests/conformance/disk.py /tmp/check.py
    echo 'import board; check_disk(board.disks()[0], first=2048, count=4096)' >> /tmp/check.py
    mpremote run /tmp/check.py

It asks for what "Drivers" in docs/porting.md lists, and nothing else; what is optional there is
asked of drivers that have it. Each check prints its claim once it has been shown; the first that
fails raises AssertionError with the claim in it. Only the given sectors are written; their old
content is lost. Large transfers use buffers of half of `count` sectors, at most `most` bytes.
Plain Python without imports beyond errno: it runs in MicroPython, on CPython, and over a raw REPL.
"""

import errno


class Failed(AssertionError):
    pass


def _expect(true, claim, why):
    if not true:
        raise Failed(f"{claim}: {why}")


def _refuses(claim, call, *args):
    try:
        call(*args)
    except OSError as e:
        _expect(e.args[0] == errno.EINVAL, claim, f"OSError {e.args[0]}, not EINVAL")
        return
    _expect(False, claim, f"no error for {args[:1] + args[2:]}")


# Bytes without a pattern that old, shifted or swapped sectors could imitate.
def _noise(n, seed):
    data = bytearray(n)
    x = seed * 2654435761 & 0x7FFFFFFF | 1
    for i in range(n):
        x = x * 1103515245 + 12345 & 0x7FFFFFFF
        data[i] = x >> 16 & 0xFF
    return data


def _read(dev, lba, n, offset=None):
    buf = bytearray(n)
    if offset is None:
        dev.readblocks(lba, buf)
    else:
        dev.readblocks(lba, buf, offset)
    return buf


# Whether the driver has the extended protocol, which only file systems on the disk ask for.
def _takes_offsets(dev, lba):
    try:
        dev.readblocks(lba, bytearray(1), 0)
    except TypeError:
        return False
    return True


def disk_checks(dev, first, count, most):
    """Run the checks on sectors [first, first + count); yield each claim once it holds."""
    if count < 64:
        raise ValueError("needs 64 sectors or more")

    claim = "ioctl(1) brings the disk up, and again; it then says what it is"
    for _ in range(2):
        _expect(not dev.ioctl(1, 0), claim, "ioctl(1) is not 0 or None")
    _expect(isinstance(dev.name, str) and dev.name, claim, "no name")
    for what in ("model", "serial", "note"):
        text = getattr(dev, what, "")
        _expect(isinstance(text, str), claim, f"{what} is not text")
    cycles = dev.power_cycles() if hasattr(dev, "power_cycles") else 0
    _expect(isinstance(cycles, int) and cycles >= 0, claim, f"power cycles: {cycles}")
    yield claim

    claim = "geometry: sectors of 512 or 4096 bytes"
    total = dev.ioctl(4, 0)
    size = dev.ioctl(5, 0)
    _expect(size in (512, 4096), claim, f"{size} bytes")
    _expect(first >= 0 and first + count <= total, claim, f"{total} sectors")
    yield claim

    extended = _takes_offsets(dev, first)
    eight = _noise(8 * size, 1)

    claim = "one sector, several sectors, the first and the last of the range"
    for lba, n in ((first, 1), (first, 8), (first + count - 8, 8), (first + count - 1, 1)):
        dev.writeblocks(lba, memoryview(eight)[: n * size])
        _expect(_read(dev, lba, n * size) == eight[: n * size], claim, f"lba {lba}, {n}")
    yield claim

    claim = "a write changes the sectors asked for and no others"
    dev.writeblocks(first, eight)
    dev.writeblocks(first + 3, memoryview(eight)[: 2 * size])
    want = bytearray(eight)
    want[3 * size : 5 * size] = eight[: 2 * size]
    _expect(_read(dev, first, 8 * size) == want, claim, "other content")
    yield claim

    claim = "what was written is there after ioctl(3)"
    _expect(not dev.ioctl(3, 0), claim, "ioctl(3) is not 0 or None")
    _expect(_read(dev, first, 8 * size) == want, claim, "other content")
    yield claim

    claim = "large transfers, every sector in its place"
    n = min(count // 2, most // size)
    big = bytearray(n * size)
    for i in range(n):
        big[i * size : i * size + 8] = (first + i).to_bytes(8, "little")
        big[i * size + 8 : (i + 1) * size] = eight[8:size]
    dev.writeblocks(first, big)
    for i in range(len(big)):
        if i % size < 8:
            big[i] = 0
    dev.readblocks(first, big)
    view = memoryview(big)
    for i in range(n):
        number = int.from_bytes(bytes(view[i * size : i * size + 8]), "little")
        _expect(number == first + i, claim, f"sector {first + i} holds that of {number}")
        _expect(view[i * size + 8 : (i + 1) * size] == eight[8:size], claim, first + i)
    yield claim

    claim = "buffers at odd addresses"
    dev.writeblocks(first, eight)
    odd = memoryview(bytearray(8 * size + 1))[1:]
    dev.readblocks(first, odd)
    _expect(odd == eight, claim, "read other content")
    odd[:] = want
    dev.writeblocks(first, odd)
    _expect(_read(dev, first, 8 * size) == want, claim, "wrote other content")
    yield claim

    if extended:
        claim = "the extended protocol: any offset and length, and the other bytes stay"
        view = memoryview(eight)
        for offset, n in (
            (0, 1),
            (3, size),
            (size - 1, 2),
            (size, size),
            (2 * size + 5, 3 * size + 9),
            (9, 0),
            (8 * size - 3, 3),
        ):
            dev.writeblocks(first, view[5 : 5 + n], offset)
            want[offset : offset + n] = eight[5 : 5 + n]
            _expect(_read(dev, first, 8 * size) == want, claim, f"offset {offset}, {n} bytes")
            _expect(_read(dev, first, n, offset) == want[offset : offset + n], claim, offset)
        yield claim

        claim = "the extended protocol: ioctl(6) changes nothing"
        _expect(not dev.ioctl(6, first), claim, "ioctl(6) is not 0 or None")
        _expect(_read(dev, first, 8 * size) == want, claim, "other content")
        yield claim

    claim = "what lies outside the disk is refused with EINVAL, and changes nothing"
    end = _read(dev, total - 1, size)
    # A driver that fails here must not damage the last sector either: such ranges are only read.
    _refuses(claim, dev.readblocks, total - 1, bytearray(2 * size))
    if extended:
        _refuses(claim, dev.readblocks, total - 1, bytearray(2), size - 1)
    for call in (dev.readblocks, dev.writeblocks):
        _refuses(claim, call, -1, bytearray(size))
        _refuses(claim, call, total, bytearray(size))
        _refuses(claim, call, total + (1 << 32), bytearray(size))
        _refuses(claim, call, first, bytearray(size - 1))
        if extended:
            _refuses(claim, call, first, bytearray(1), -1)
    _expect(_read(dev, total - 1, size) == end, claim, "the last sector changed")
    _expect(_read(dev, first, 8 * size) == want, claim, "the disk changed")
    yield claim


def check_disk(dev, first, count, most=1 << 20):
    """Run and print every check; return how many there were."""
    n = 0
    for claim in disk_checks(dev, first, count, most):
        n += 1
        print("ok", claim)
    print(f"disk {dev.name}: {n} checks passed")
    return n
