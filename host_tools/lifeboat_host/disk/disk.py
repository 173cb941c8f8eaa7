"""A member disk: an image file or a block device, read and written by byte offset."""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from lifeboat_host.base import files
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import PathLike, Progress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BLKSSZGET = 0x1268  # Linux: the logical sector size of a block device
_CHUNK = 1 << 20
_LOOPS = Path("/sys/block")
# QEMU's (block/file-posix.c): read locks on single bytes of an image say what each user does with
# it. A lock on all of these bytes is refused while there is one, and keeps QEMU from starting.
_QEMU_LOCKS, _QEMU_LOCKS_SIZE = 100, 164


class Disk(AbstractContextManager["Disk"]):
    """Use as a context manager; sizes and offsets in bytes.

    lba_size: of an image file (512 when None); a block device knows its own.
    write: open for writing, and exclusively: not while it is mounted, behind a loop device, or a
    virtual machine's disk.
    local: the host's own tools can open `path`.
    """

    local = True
    _allowed: tuple[tuple[int, int], ...] = ()

    def __init__(self, path: PathLike, lba_size: int | None = None, write: bool = False) -> None:
        self.path = Path(path)
        hint = "name a disk image file or a block device that is not in use"
        # First only looked at: opening a device for writing may do something, a tape's even to
        # read it.
        self._fd, state = files.open_regular(self.path, "disk-open", hint, devices=True)
        is_device = stat.S_ISBLK(state.st_mode)
        if write:
            os.close(self._fd)
            flags = os.O_RDWR | (os.O_EXCL if is_device else 0)
            self._fd, again = files.open_regular(
                self.path, "disk-open", hint, flags=flags, devices=True
            )
            is_device = stat.S_ISBLK(again.st_mode)
        user = self._user() if write and not is_device else ""
        if user:
            os.close(self._fd)
            raise LifeboatError(
                "disk-open", f"{self.path}: in use by {user}", "end that first, then run it again"
            )
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        self.lba_size = self._device_lba_size() if is_device else lba_size or 512
        if self.lba_size not in (512, 4096) or self.size % self.lba_size or not self.size:
            os.close(self._fd)
            raise LifeboatError(
                "disk-geometry",
                f"{self.path}: {self.size} bytes are not a disk of {self.lba_size} byte sectors",
                "disks have sectors of 512 or 4096 bytes; see --lba-size",
            )

    def _user(self) -> str:
        """Who else uses an image file; when nobody does (empty), nobody can while it is open."""
        if not hasattr(fcntl, "F_OFD_SETLK"):
            return ""
        lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _QEMU_LOCKS, _QEMU_LOCKS_SIZE, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return "a virtual machine, or by lifeboat"
            # Else the file system has no locks, and QEMU does without them, too.
        for backing in _LOOPS.glob("loop*/loop/backing_file"):
            try:
                if os.path.samefile(backing.read_text().rstrip("\n"), self.path):
                    return f"/dev/{backing.parts[-3]}"
            except OSError:
                continue  # deleted, or detached just now
        return ""

    def _device_lba_size(self) -> int:
        if fcntl is None or not sys.platform.startswith("linux"):
            os.close(self._fd)
            raise LifeboatError(
                "disk-open",
                f"{self.path}: block devices are opened on Linux only",
                "here, work with an image of the disk; or with the board: --port",
            )
        answer = fcntl.ioctl(self._fd, _BLKSSZGET, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises LifeboatError disk-read."""
        data = b""
        why = "the disk ends here"
        try:
            while len(data) < size:
                part = files.read_at(self._fd, size - len(data), offset + len(data))
                if not part:
                    break
                data += part
        except OSError as error:
            why = error.strerror or str(error)
        if len(data) < size:
            raise LifeboatError(
                "disk-read",
                f"{self.path}, offset 0x{offset + len(data):x}: {why}",
                "check the disk; the other members may hold a good copy",
            )
        return data

    def allow(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Let write() touch these ranges of bytes [start, end), too; nothing is allowed at first.

        Said once, where a range was decided on, so that no mistake elsewhere writes outside.
        """
        self._allowed = (*self._allowed, *ranges)

    def check_allowed(self, offset: int, size: int) -> None:
        """Raises LifeboatError disk-write unless one of the allowed ranges holds all of it."""
        if not any(start <= offset and offset + size <= end for start, end in self._allowed):
            raise LifeboatError(
                "disk-write",
                f"{self.path}: bytes {offset} to {offset + size - 1} are not ours to write",
                "this is a fault in lifeboat; report it",
            )

    def write(self, offset: int, data: bytes) -> None:
        """Only where allow() said so. Raises LifeboatError disk-write."""
        self.check_allowed(offset, len(data))
        view = memoryview(data)
        try:
            while view:
                done = files.write_at(self._fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise LifeboatError(
                "disk-write",
                f"{self.path}, offset 0x{offset:x}: {error.strerror}",
                "check the disk and that it is not read-only",
            ) from None

    def flush(self) -> None:
        """All writes are on the medium, and the next read comes from there."""
        try:
            os.fsync(self._fd)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise LifeboatError(
                "disk-write", f"{self.path}: flush: {error.strerror}", "check the disk"
            ) from None

    def first_nonzero(self, start: int, end: int, progress: Progress | None = None) -> int | None:
        """Offset of the first byte in [start, end) that is not zero; skips holes of files."""
        zeros = bytes(_CHUNK)
        at = start
        while at < end:
            at = min(self._next_data(at), end)
            size = min(_CHUNK, end - at)
            data = self.read(at, size)
            if data != zeros[:size]:
                return at + size - len(data.lstrip(b"\0"))
            at += size
            if progress:
                progress(at - start, end - start)
        return None

    def _next_data(self, offset: int) -> int:
        if not hasattr(os, "SEEK_DATA"):
            return offset
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            # ENXIO: only a hole follows; anything else: no such call for this kind of file
            return self.size if error.errno == errno.ENXIO else offset
