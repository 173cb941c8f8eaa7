"""Small files that must not be lost, read by others, or mistaken for something else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lifeboat_host.base import files
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.files import NO_LINK, PRIVATE, sync_folder


def read(path: Path, limit: int) -> tuple[bytes, int]:
    """(content, permission bits) of a regular file. Raises LifeboatError key-read."""
    content, state = files.read(path, limit, "key-read", "check its name and who may read it")
    return content, stat.S_IMODE(state.st_mode)


def create(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file that was not there; it is on the medium when this returns.

    Raises LifeboatError: key-exists, key-write.
    """
    try:
        files.create(path, content, mode)
    except FileExistsError:
        raise LifeboatError(
            "key-exists", f"{path}: is there already, and is left as it is", "choose another name"
        ) from None
    except OSError as error:
        raise unwritable(path, error) from None


def make_folders(path: Path) -> None:
    """Make a folder that only its owner sees, and those above it; on the medium when it returns.

    Raises LifeboatError key-write.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(folder.parent)
        except OSError as error:
            raise unwritable(folder, error) from None


def open_log(path: Path) -> int:
    """Open a file for reading and appending, made when it is not there.

    Raises LifeboatError key-write.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINK, PRIVATE)
        try:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise LifeboatError("key-write", f"{path}: not a file", "move it away")
            # Also one that an earlier run made, and was killed before it came to this.
            if state.st_size == 0:
                sync_folder(path.parent)
        except BaseException:
            os.close(handle)
            raise
        return handle
    except OSError as error:
        raise unwritable(path, error) from None


def append(handle: int, path: Path, line: str) -> None:
    """Add a line, which is on the medium when this returns.

    What an earlier writer left without a line end stays a line of its own. Raises LifeboatError
    key-write.
    """
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and files.read_at(handle, 1, size - 1) != b"\n"
        rest = (("\n" if torn else "") + line + "\n").encode("ascii")
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> LifeboatError:
    return LifeboatError(
        "key-write",
        f"{path}: {error.strerror}",
        "check the folder, its free space, and who may write there",
    )
