"""Embedded-code images: files with the exact content of a board's code flash."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from lifeboat_host.errors import LifeboatError
from lifeboat_host.formats import (
    KINDS,
    MANIFEST_LIMIT,
    UNIT,
    Manifest,
    Segment,
    pack_manifest,
    parse_manifest,
)

PathLike = Union[str, "os.PathLike[str]"]
Progress = Callable[[int, int], None]  # called with (done, total)

_BLOB, _OS, _ROMFS = range(len(KINDS))


@dataclass(frozen=True)
class Source:
    """What a segment is made of: a folder (becomes a ROMFS) or a file (taken as it is)."""

    name: str
    path: Path

    @property
    def kind(self) -> int:
        if self.path.is_dir() or self.path.suffix == ".romfs":
            return _ROMFS
        return _OS if self.name == "os" else _BLOB

    def content(self) -> bytes:
        try:
            return build_romfs(self.path) if self.path.is_dir() else self.path.read_bytes()
        except OSError as error:
            raise LifeboatError(
                "segment-source",
                f"segment {self.name}: {self.path}: {error.strerror}",
                "a segment is name=FILE or name=FOLDER",
            ) from None


def build_romfs(folder: PathLike) -> bytes:
    """A ROMFS of the folder's files, made by mpremote."""
    with tempfile.TemporaryDirectory(prefix="lifeboat.") as scratch:
        output = Path(scratch, "out.romfs")
        command = [sys.executable, "-m", "mpremote", "romfs", "--no-mpy", "-o", str(output)]
        run = subprocess.run(
            [*command, "build", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if run.returncode or not output.is_file():
            raise LifeboatError(
                "romfs-build",
                f"{folder}: mpremote made no ROMFS: {run.stdout.strip() or run.returncode}",
                "try `mpremote romfs build` on the folder; pip install mpremote if it is missing",
            )
        return output.read_bytes()


def build(
    sources: Sequence[Source],
    output: PathLike,
    *,
    product: str,
    version: str,
    flash_size: int,
    block_size: int,
    security_counter: int = 0,
) -> Manifest:
    """Write the image of a flash of `flash_size` bytes; the same input gives the same bytes.

    Every segment starts at a block boundary, so that a block belongs to one segment only.
    Raises LifeboatError: image-geometry, image-full, segment-source, romfs-build, manifest-*.
    """
    if block_size <= 0 or block_size % UNIT or flash_size % block_size:
        raise LifeboatError(
            "image-geometry",
            f"blocks of {block_size} bytes do not divide a flash of {flash_size} bytes",
            f"the block size is a multiple of {UNIT} that divides the flash size",
        )
    room = flash_size - block_size
    code = bytearray()
    segments = []
    for source in sources:
        content = source.content()
        if len(code) + len(content) > room:
            raise LifeboatError(
                "image-full",
                f"segment {source.name}: {len(code) + len(content)} bytes of code, "
                f"the flash has room for {room}",
                "leave something out or use a larger flash",
            )
        segments.append(Segment(source.name, source.kind, len(code), len(content)))
        code += content
        code += b"\xff" * (-len(code) % block_size)
    view = memoryview(code)
    blocks = [view[at : at + block_size] for at in range(0, len(code), block_size)]
    raw = pack_manifest(
        product=product,
        version=version,
        block_size=block_size,
        segments=segments,
        blocks=blocks,
        security_counter=security_counter,
    )
    manifest = parse_manifest(raw, flash_size=flash_size)  # what we ship keeps the rules
    _replace(output, bytes(code).ljust(room, b"\xff") + raw.ljust(block_size, b"\xff"))
    return manifest


def _replace(path: PathLike, data: bytes) -> None:
    """The file is the old one or the new one, never half of one."""
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, target)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise LifeboatError(
            "image-write", f"{target}: {error.strerror}", "check the folder and its free space"
        ) from None


class Image(AbstractContextManager["Image"]):
    """An image file, opened for reading. Use as a context manager.

    block_size: of the flash; when None it is found by looking for the manifest.
    """

    def __init__(self, path: PathLike, block_size: int | None = None) -> None:
        self.path = Path(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise LifeboatError(
                "image-read", f"{self.path}: {error.strerror}", "name an image file"
            ) from None
        self.flash_size = os.fstat(self._fd).st_size
        self._block_size = block_size

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def manifest(self) -> Manifest:
        """The manifest of the last block. Raises LifeboatError: manifest-*, image-geometry."""
        block_size = self._block_size or self._find_block_size()
        if block_size <= 0 or block_size % UNIT or self.flash_size % block_size:
            raise LifeboatError(
                "image-geometry",
                f"{self.path}: {self.flash_size} bytes are not made of {block_size} byte blocks",
                "an image has the size of the code flash; check --block-size",
            )
        offset = self.flash_size - block_size
        data = self.read(offset, min(block_size, MANIFEST_LIMIT))
        try:
            return parse_manifest(data, block_size=block_size, flash_size=self.flash_size)
        except LifeboatError as error:
            if not error.hint:
                error.hint = "power the board on to have it mended, or build the image again"
            raise error.located(f"{self.path}, offset 0x{offset:x}") from None

    def _find_block_size(self) -> int:
        size = UNIT
        while size <= self.flash_size:
            if self.flash_size % size == 0:
                data = self.read(self.flash_size - size, MANIFEST_LIMIT)
                try:
                    return parse_manifest(data, block_size=size).block_size
                except LifeboatError as error:
                    if error.code not in ("manifest-magic", "manifest-field"):
                        return size  # damaged, but here: manifest() says how
            size += UNIT
        raise LifeboatError(
            "manifest-magic",
            f"{self.path}: no manifest in the last block of any size",
            "give --block-size to look at a damaged image, or build it again",
        )


@dataclass(frozen=True)
class Damage:
    """A block that is not as its manifest says."""

    block: int
    offset: int
    crc_ok: bool
    sha_ok: bool
    erased: bool


def damaged_blocks(
    image: Image, manifest: Manifest, progress: Progress | None = None
) -> list[Damage]:
    """Every block of `image` that does not match `manifest`, in flash order."""
    found = []
    for index in range(manifest.block_count):
        offset = index * manifest.block_size
        data = image.read(offset, manifest.block_size)
        crc_ok, sha_ok = manifest.block_matches(index, data)
        if not (crc_ok and sha_ok):
            erased = data.count(0xFF) == len(data)
            found.append(Damage(index, offset, crc_ok, sha_ok, erased))
        if progress:
            progress(index + 1, manifest.block_count)
    return found


def padding_clean(image: Image, manifest: Manifest) -> bool:
    """Whether the manifest block is 0xFF after the manifest."""
    size = manifest.block_size - len(manifest.raw)
    return image.read(image.flash_size - size, size).count(0xFF) == size
