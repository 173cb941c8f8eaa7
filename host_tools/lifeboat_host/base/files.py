"""Files that are read and written on the word of others: never through a link, never a pipe or a
device that was not asked for, never more than expected, never half."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from lifeboat_host.base.errors import LifeboatError

PRIVATE, PUBLIC = 0o600, 0o666  # less the umask
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_READ |= getattr(os, "O_BINARY", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def what(mode: int) -> str:
    """What a mode of stat() stands for, for people."""
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((name for test, name in kinds if test(mode)), "a file")


def open_regular(
    path: Path, code: str, hint: str, *, flags: int = 0, devices: bool = False
) -> tuple[int, os.stat_result]:
    """Open a regular file, or with devices=True a block device; (descriptor, its state).

    flags: besides those for reading. A pipe that nobody writes to is refused, not waited for.
    Raises LifeboatError `code`.
    """
    try:
        # A FIFO opened for reading and writing is not waited for either.
        handle = os.open(path, _READ | flags)
    except OSError as error:
        raise LifeboatError(code, f"{path}: {error.strerror}", hint) from None
    state = os.fstat(handle)
    if not (stat.S_ISREG(state.st_mode) or (devices and stat.S_ISBLK(state.st_mode))):
        os.close(handle)
        raise LifeboatError(code, f"{path}: it is {what(state.st_mode)}", hint)
    return handle, state


def read(path: Path, limit: int, code: str, hint: str) -> tuple[bytes, os.stat_result]:
    """(content, state) of a regular file of at most `limit` bytes. Raises LifeboatError `code`."""
    handle, state = open_regular(path, code, hint)
    try:
        with open(handle, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise LifeboatError(code, f"{path}: {error.strerror}", hint) from None
    if len(content) > limit:
        raise LifeboatError(code, f"{path}: more than {limit} bytes: it is no such file", hint)
    return content, state


def create(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file that was not there; it is on the medium when this returns. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK | _BINARY, mode)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        sync_folder(path.parent)
    except OSError:
        path.unlink(missing_ok=True)  # half of a file would only be in the way
        raise


def create_whole(path: Path, content: bytes) -> None:
    """As create(), but it has its name only when it is whole. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        create(scratch, content)
        try:
            os.link(scratch, path, follow_symlinks=False)  # unlike a rename, it replaces nothing
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):  # a file system without links
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.replace(scratch, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            scratch.unlink()


def replace(path: Path, content: bytes | bytearray, mode: int = PUBLIC) -> None:
    """Write a file, or put it in the place of one: it is the old one or the new one, never half.

    A link of that name is replaced, not followed. Raises OSError.
    """
    scratch = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        create(scratch, bytes(content), mode)
        os.replace(scratch, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            scratch.unlink()


def sync_folder(path: Path) -> None:
    """Put the names in a folder onto the medium, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """As os.pread(), which Windows has not."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, size)


def write_at(handle: int, data: bytes | memoryview, offset: int) -> int:
    """As os.pwrite(), which Windows has not."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, data, offset)
    os.lseek(handle, offset, os.SEEK_SET)
    return os.write(handle, data)
