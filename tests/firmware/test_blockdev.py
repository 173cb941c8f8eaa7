"""I3 at the lowest layer: a window refuses before the device is touched."""

from errno import EINVAL, EPERM

import pytest

from lifeboat.blockdev import COUNT, ERASE, INIT, SIZE, SYNC, Scratch, Window, geometry


class Device:
    """Blocks of 16 bytes; notes every access."""

    def __init__(self, count=10, size=16):
        self.count, self.size = count, size
        self.calls = []

    def readblocks(self, *args):
        self.calls.append(("read", *args))

    def writeblocks(self, *args):
        self.calls.append(("write", *args))

    def ioctl(self, op, arg):
        if op == COUNT:
            return self.count
        if op == SIZE:
            return self.size
        self.calls.append((op, arg))
        return 0


class Mapped(Device):
    def view(self, offset, length):
        self.calls.append(("view", offset, length))
        return bytes(length)


@pytest.fixture
def window():
    return Window(Device(), 3, 4)


def device(window):
    return window._dev._dev


def test_addresses_are_moved_by_the_start_of_the_window(window):
    window.readblocks(0, b"\0" * 64)
    window.readblocks(3, b"\0" * 16)
    window.readblocks(1, b"\0" * 7, 9)
    window.writeblocks(3, b"\0" * 16)
    window.writeblocks(0, b"\0" * 20, 44)
    window.ioctl(ERASE, 3)
    assert [call[:2] for call in device(window).calls] == [
        ("read", 3), ("read", 6), ("read", 4), ("write", 6), ("write", 3), (ERASE, 6),
    ]  # fmt: skip
    assert device(window).calls[2][3] == 9


def test_its_own_size_is_told_and_not_the_devices(window):
    assert geometry(window) == (4, 16)


@pytest.mark.parametrize(
    "block, length, offset",
    [
        (-1, 16, None), (4, 16, None), (3, 32, None), (0, 65, None), (4, 0x1000, None),
        (0, 1, 64), (3, 1, 16), (0, 16, -1), (1, 16, -16), (-1, 1, 0), (1 << 70, 16, None),
        (0, 16, 1 << 70),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["readblocks", "writeblocks"])
def test_accesses_outside_are_refused_before_the_device_is_touched(
    window, method, block, length, offset
):
    args = (block, bytes(length)) if offset is None else (block, bytes(length), offset)
    with pytest.raises(OSError) as caught:
        getattr(window, method)(*args)
    assert caught.value.args[0] == EPERM
    assert device(window).calls == [] and window.writes == 0


@pytest.mark.parametrize("block", [-1, 4, 1 << 40])
def test_erases_outside_are_refused_before_the_device_is_touched(window, block):
    with pytest.raises(OSError) as caught:
        window.ioctl(ERASE, block)
    assert caught.value.args[0] == EPERM
    assert device(window).calls == []


def test_writes_are_counted(window):
    window.writeblocks(0, b"\0" * 16)
    window.writeblocks(0, b"\0", 3)
    window.ioctl(ERASE, 0)
    window.readblocks(0, b"\0" * 16)
    assert window.writes == 2


def test_init_and_flush_reach_the_device(window):
    window.ioctl(INIT, 0)
    window.ioctl(SYNC, 0)
    assert device(window).calls == [(INIT, 0), (SYNC, 0)]


@pytest.mark.parametrize(
    "first, count", [(-1, 2), (0, 0), (0, -1), (0, 11), (10, 1), (1 << 70, 1)]
)
def test_a_window_lies_on_its_device(first, count):
    with pytest.raises(OSError) as caught:
        Window(Device(), first, count)
    assert caught.value.args[0] == EINVAL


@pytest.mark.parametrize("count, size", [(0, 16), (10, 0), (None, 16), (10, None), (-5, 16)])
def test_a_device_without_a_size_is_no_device(count, size):
    with pytest.raises(OSError) as caught:
        geometry(Device(count, size))
    assert caught.value.args[0] == EINVAL


def test_a_view_is_of_the_window_only():
    window = Window(Mapped(), 3, 4)
    assert window.mapped
    window.view(5, 59)
    assert device(window).calls == [("view", 53, 59)]
    for offset, length in ((-1, 4), (0, 65), (64, 1)):
        with pytest.raises(OSError):
            window.view(offset, length)
    assert len(device(window).calls) == 1


def test_a_device_that_is_not_mapped_says_so(window):
    assert not window.mapped


# A buffer of one block, and how much of the copies may still be read into it (I11).


def test_a_buffer_is_made_once_and_not_before_it_is_needed():
    scratch = Scratch(32)
    buf = scratch.get()
    assert len(buf) == 32 and scratch.get() is buf and scratch.take() is buf


def test_a_buffer_that_was_dropped_is_never_used_again():
    scratch = Scratch(32)
    buf = scratch.get()
    scratch.drop()
    assert scratch.get() is not buf
    scratch.get()[:] = b"x" * 32
    assert bytes(buf) == bytes(32)


@pytest.mark.parametrize("left, reads", [(0, 0), (31, 0), (32, 1), (100, 3), (128, 4)])
def test_no_more_is_read_than_the_bytes_that_are_left(left, reads):
    scratch = Scratch(32)
    scratch.left = left
    assert [scratch.take() is not None for _ in range(6)] == [True] * reads + [False] * (6 - reads)
    assert scratch.spent
    # For what does not count, such as reading back, the buffer is there all the same.
    assert len(scratch.get()) == 32


def test_the_last_read_that_fits_leaves_nothing_out():
    scratch = Scratch(32)
    scratch.left = 64
    assert scratch.take() is not None and scratch.take() is not None and not scratch.spent


def test_without_a_limit_any_number_of_reads_is_allowed():
    scratch = Scratch(32)
    assert all(scratch.take() is not None for _ in range(1000)) and not scratch.spent
