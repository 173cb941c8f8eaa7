"""The segments of the code in flash, for who runs them after a verdict that says so."""

import os
import sys
from binascii import hexlify

from micropython import const

from . import running
from .codeflash import CodeFlash
from .errors import LifeboatError
from .trust import Trust

_ROMFS = const(2)  # a kind of segment


def segments(board):
    """Yield (name, kind, size, data) for each segment of the code in flash.

    data() returns its bytes: a view of memory-mapped flash, else a copy in RAM. For use after a
    verdict that runs; raises LifeboatError or OSError as the manifest and the driver do, and
    LifeboatError(flash-changed) when this is not the code that the verdict is about.
    """
    flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
    manifest = flash.manifest(Trust(board, flash).recall())[0]
    # The whole id counts: its beginning could be made to fit.
    if running.report and running.report.build_id != hexlify(manifest.build).decode():
        raise LifeboatError("flash-changed")
    for name, kind, offset, size in manifest.segments:
        yield name, kind, size, lambda offset=offset, size=size: flash.map(offset, size)


def mount(board):
    """Mount every ROMFS segment as /NAME; the first one becomes current and importable."""
    import vfs

    first = True
    for name, kind, _, data in segments(board):
        if kind == _ROMFS:
            path = "/" + name
            vfs.mount(vfs.VfsRom(data()), path)
            if first:
                os.chdir(path)
                sys.path.insert(0, path)
                first = False
