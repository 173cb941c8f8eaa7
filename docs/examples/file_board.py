"""lifeboat without a board: code flash and disk are files, MicroPython's unix port the CPU.

    ./lifeboat setup
    truncate -s 64M disk.img; ./lifeboat region create --size 8M disk.img
    ./lifeboat image build -o code.img --version 1.0 --product file-board \\
        --flash-size 1M --block-size 4K app=src/
    MICROPYPATH=firmware:.frozen .lifeboat/unix/micropython \\
        docs/examples/file_board.py code.img disk.img

Damage code.img, run it again, and it is whole.
"""

import sys

import lifeboat

BLOCK = 4096


class FileDevice:
    """A file as a MicroPython block device, with the extended protocol."""

    def __init__(self, path, size):
        self._file = open(path, "r+b")
        self._size = size
        self._count = self._file.seek(0, 2) // size
        self.name = path

    def readblocks(self, block, buf, offset=0):
        self._file.seek(block * self._size + offset)
        self._file.readinto(buf)

    def writeblocks(self, block, buf, offset=None):
        if offset is None:  # as the simple protocol has it: erased first
            offset = 0
        self._file.seek(block * self._size + offset)
        self._file.write(buf)

    def ioctl(self, op, arg):
        if op == 3:
            self._file.flush()
        elif op == 4:
            return self._count
        elif op == 5:
            return self._size
        elif op == 6:  # erase
            self._file.seek(arg * self._size)
            self._file.write(b"\xff" * self._size)
        return 0


class Board:
    PRODUCT = "file-board"
    BLOCK_SIZE = BLOCK
    UNSIGNED = True  # no keys: code need not be signed
    REGION_LBAS = ()

    def __init__(self, code, disks):
        self._code = FileDevice(code, BLOCK)
        self._disks = [FileDevice(path, 512) for path in disks]

    def start(self):
        pass  # nothing has to spin up

    def flash(self):
        return self._code

    def disks(self):
        return self._disks

    def retained(self):
        return None  # nothing survives a reset


report = lifeboat.power_on(Board(sys.argv[1], sys.argv[2:]))
sys.exit(0 if report.runs else 1)
