"""What lifeboat asks of a flash driver, as named checks that run on the board itself.

For a porter: put the driver on the board, and run this file with a line added that makes the
device and names blocks whose content may be lost, at least two:

    cp tests/conformance/flash.py /tmp/check.py
    echo 'import board; check_flash(board.flash(), first=100, blocks=4)' >> /tmp/check.py
    mpremote run /tmp/check.py

It asks for what "Drivers" in docs/porting.md lists, and nothing else; what is optional there is
asked of drivers that have it. Each check prints its claim once it has been shown; the first that
fails raises AssertionError with the claim in it. Only the given blocks are erased and written;
their old content is lost. Plain Python without imports beyond errno: it runs in MicroPython, on
CPython, and over a raw REPL.
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


# Bytes without a pattern that erased, shifted or swapped memory could imitate.
def _noise(n, seed):
    data = bytearray(n)
    x = seed * 2654435761 & 0x7FFFFFFF | 1
    for i in range(n):
        x = x * 1103515245 + 12345 & 0x7FFFFFFF
        data[i] = x >> 16 & 0xFF
    return data


def _read(dev, block, n, offset=None):
    buf = bytearray(n)
    if offset is None:
        dev.readblocks(block, buf)
    else:
        dev.readblocks(block, buf, offset)
    return buf


def flash_checks(dev, first, blocks):
    """Run the checks on blocks [first, first + blocks); yield each claim once it holds."""
    if blocks < 2:
        raise ValueError("needs two blocks or more")

    claim = "geometry: blocks of equal size, a name, ioctl(1) and ioctl(3) succeed"
    count = dev.ioctl(4, 0)
    size = dev.ioctl(5, 0)
    _expect(count > 0 and first >= 0 and first + blocks <= count, claim, f"{count} blocks")
    _expect(size >= 512 and size % 4 == 0, claim, f"block size {size}")
    _expect(isinstance(dev.name, str) and dev.name, claim, f"name {dev.name}")
    for op in (1, 1, 3):
        _expect(not dev.ioctl(op, 0), claim, f"ioctl({op}) is not 0 or None")
    yield claim

    mapped = hasattr(dev, "view")

    # Every look at the flash, so that a driver that leaves it in another mode is found out.
    def same(block, want, claim, why):
        _expect(_read(dev, block, len(want)) == want, claim, why)
        if mapped:
            seen = dev.view(block * size, len(want))
            _expect(bytes(seen) == want, claim, why + " (seen in memory)")

    blank = b"\xff" * size
    data = _noise(size, 1)

    claim = "ioctl(6) erases one block to 0xFF and nothing else"
    dev.writeblocks(first, data)
    dev.writeblocks(first + 1, data)
    _expect(not dev.ioctl(6, first), claim, "ioctl(6) is not 0 or None")
    same(first, blank, claim, "block not blank")
    same(first + 1, data, claim, "the next block changed")
    yield claim

    if hasattr(dev, "erase_blocks"):
        claim = "erase_blocks() erases these blocks and nothing else"
        dev.writeblocks(first, data)
        dev.erase_blocks(first + 1, blocks - 1)
        same(first, data, claim, "the block before changed")
        for block in range(first + 1, first + blocks):
            same(block, blank, claim, "block not blank")
        dev.writeblocks(first + 1, data)
        yield claim

    claim = "a whole-block write erases and programs exactly that block"
    other = _noise(size, 2)
    dev.writeblocks(first, other)
    dev.writeblocks(first, data)
    same(first, data, claim, "other content")
    same(first + 1, data, claim, "the next block changed")
    yield claim

    claim = "several blocks in one call"
    both = data + other
    dev.writeblocks(first, both)
    _expect(_read(dev, first, 2 * size) == both, claim, "other content")
    yield claim

    claim = "blank parts of a block come out blank"
    part = bytearray(blank)
    part[size // 2 : size // 2 + 100] = data[:100]
    dev.writeblocks(first, part)
    same(first, part, claim, "other content")
    dev.writeblocks(first, blank)
    same(first, blank, claim, "block not blank")
    yield claim

    claim = "reads at any offset and length"
    dev.writeblocks(first, data)
    dev.writeblocks(first + 1, other)
    for offset, n in ((0, 1), (1, 2), (3, 64), (size - 1, 1), (size - 3, 7), (255, 513), (9, 0)):
        _expect(_read(dev, first, n, offset) == both[offset : offset + n], claim, offset)
    yield claim

    # A unit that is programmed once takes no second piece.
    claim = "writes at any offset and length program these bytes and leave the others"
    unit = getattr(dev, "program_size", 1)
    dev.ioctl(6, first)
    dev.ioctl(6, first + 1)
    want = bytearray(2 * size)
    want[:] = blank + blank
    view = memoryview(data)
    pieces = (
        (0, 1),
        (2, 1),
        (5, 2),
        (11, 7),
        (size // 8 - 3, 6),
        (size // 4, size // 8),
        (size // 8 * 3 + 1, size // 4 - 1),
        (size - 5, 10),
        (size + 77, 0),
        (2 * size - 3, 3),
    )
    if unit > 1:
        ends = ((size - 2 * unit, 4 * unit), (size + 9 * unit, 0), (2 * size - 3 * unit, 3 * unit))
        pieces = [(unit * p[0], unit * p[1]) for p in pieces[:4]] + list(ends)
    for offset, n in pieces:
        dev.writeblocks(first, view[7 : 7 + n], offset)
        want[offset : offset + n] = data[7 : 7 + n]
        _expect(_read(dev, first, 2 * size) == want, claim, f"offset {offset}, {n} bytes")
    yield claim

    claim = "a write with an offset never erases"
    dev.ioctl(6, first)
    dev.writeblocks(first, view[:64], 2 * max(unit, 64))
    dev.writeblocks(first, view[:64], 0)
    kept = _read(dev, first, 64, 2 * max(unit, 64))
    _expect(kept == data[:64], claim, "what was there before is gone")
    yield claim

    claim = "buffers at odd addresses"
    odd = memoryview(bytearray(size + 1))[1:]
    odd[:] = other
    dev.writeblocks(first, odd)
    same(first, other, claim, "other content")
    odd[:] = blank
    dev.readblocks(first, odd)
    _expect(odd == other, claim, "read other content")
    yield claim

    if mapped:
        claim = "view() shows the range asked for, and only ranges of the flash"
        piece = dev.view(first * size + 5, 100)
        _expect(len(piece) == 100 and bytes(piece) == other[5:105], claim, "other content")
        last = dev.view((count - 1) * size, size)
        _expect(bytes(last) == _read(dev, count - 1, size), claim, "last block differs")
        for offset, n in ((-1, 2), (count * size, 1), (count * size - 1, 2)):
            _refuses(claim, dev.view, offset, n)
        yield claim

    claim = "what lies outside the flash is refused with EINVAL, and changes nothing"
    # A driver that fails here must not damage the last block either: such ranges are only read.
    _refuses(claim, dev.readblocks, count - 1, bytearray(size + 1), 0)
    for call in (dev.readblocks, dev.writeblocks):
        _refuses(claim, call, -1, bytearray(size))
        _refuses(claim, call, count, bytearray(size))
        _refuses(claim, call, first, bytearray(3))
        _refuses(claim, call, first, bytearray(1), -1)
        _refuses(claim, call, count, bytearray(1), 0)
    _refuses(claim, dev.ioctl, 6, -1)
    _refuses(claim, dev.ioctl, 6, count)
    same(first, other, claim, "the flash changed")
    yield claim


def check_flash(dev, first, blocks):
    """Run and print every check; return how many there were."""
    n = 0
    for claim in flash_checks(dev, first, blocks):
        n += 1
        print("ok", claim)
    print(f"flash {dev.name}: {n} checks passed")
    return n
