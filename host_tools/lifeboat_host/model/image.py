"""Embedded-code images: files with the exact content of a board's code flash."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lifeboat_host.base import files
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import PathLike, Progress
from lifeboat_host.model import draft as drafts
from lifeboat_host.model import memory
from lifeboat_host.model.draft import Signer
from lifeboat_host.model.formats import (
    EXTENSION_KEYS,
    KINDS,
    MAGICS,
    MANIFEST,
    MANIFEST_LIMIT,
    UNIT,
    Manifest,
    Segment,
    pack_manifest,
    parse_manifest,
)
from lifeboat_host.model.keyset import KeySet
from lifeboat_host.model.memory import Memory, mirror_size_for

_DAMAGED = ("manifest-magic", "manifest-crc", "manifest-size")  # rot looks like this
_BLOB, _OS, _ROMFS = range(len(KINDS))
_FLASH_MAX, _BLOCK_MAX = 1 << 30, 64 << 20  # far beyond what chips have


@dataclass(frozen=True)
class Source:
    """What a segment is made of: a folder (becomes a ROMFS) or a file (taken as it is)."""

    name: str
    path: Path
    follow_links: bool = False  # also those that lead out of the folder

    @property
    def kind(self) -> int:
        if self.path.is_dir() or self.path.suffix == ".romfs":
            return _ROMFS
        return _OS if self.name == "os" else _BLOB

    def content(self) -> bytes:
        """Raises LifeboatError: segment-source, segment-link, romfs-build."""
        hint = "a segment is name=FILE or name=FOLDER"
        try:
            if self.path.is_dir():
                _check_folder_content(self.path, self.follow_links)
                return build_romfs(self.path)
            return files.read(self.path, _FLASH_MAX, "segment-source", hint)[0]
        except OSError as error:
            raise LifeboatError(
                "segment-source", f"segment {self.name}: {self.path}: {error.strerror}", hint
            ) from None
        except LifeboatError as error:
            if error.code == "segment-source":
                error.message = f"segment {self.name}: {error.message}"
            raise


def _check_folder_content(folder: Path, follow_links: bool) -> None:
    """Raise unless all of a folder are files, and of this folder: a link may name any file of this
    machine, and the image goes to others. Raises LifeboatError: segment-link, segment-source."""
    root = folder.resolve()
    for where, folders, names in os.walk(folder):
        for path in (Path(where, name) for name in [*folders, *names]):
            target = path.resolve()
            if path.is_symlink() and not follow_links and root not in target.parents:
                raise LifeboatError(
                    "segment-link",
                    f"{path}: a link that leads out of its folder, to {target}",
                    "put the file itself there, or say that links are meant: --follow-links",
                )
            if not (target.is_file() or target.is_dir()):
                kind = files.what(target.stat().st_mode) if target.exists() else "a dead link"
                raise LifeboatError(
                    "segment-source", f"{path}: it is {kind}", "a ROMFS holds files only"
                )


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
    with_memory: bool = True,
    keys: KeySet | None = None,
    signer: Signer | None = None,
) -> Manifest:
    """Write the image of a flash of `flash_size` bytes.

    The same input gives the same bytes, but for the signature. Every segment starts at a block
    boundary, so that a block belongs to one segment only.
    with_memory: leave room for the controller's memory, which is empty in an image.
    keys: the key set that it brings.
    Raises LifeboatError: image-geometry, image-full, segment-source, romfs-build, manifest-*,
    keyset-signer, and what signer.sign() raises.
    """
    if block_size <= 0 or block_size % UNIT or flash_size % block_size:
        raise LifeboatError(
            "image-geometry",
            f"blocks of {block_size} bytes do not divide a flash of {flash_size} bytes",
            f"the block size is a multiple of {UNIT} that divides the flash size",
        )
    memory_size = 2 * mirror_size_for(block_size) if with_memory else 0
    room = flash_size - block_size - memory_size
    code = bytearray()
    segments = []
    for source in sources:
        content = source.content()
        if len(code) + len(content) > room:
            raise LifeboatError(
                "image-full",
                f"segment {source.name}: {len(code) + len(content)} bytes of code, "
                f"the flash has room for {max(room, 0)}",
                "leave something out or use a larger flash"
                + (f"; the controller's memory takes {memory_size} bytes" if with_memory else ""),
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
        memory_blocks=memory_size // block_size,
        extensions=[(EXTENSION_KEYS, keys.pack())] if keys else (),
    )
    draft = drafts.draft(parse_manifest(raw), signer.public) if signer else None
    size = draft.size if draft else len(raw)
    if len(code) + _rest(size, block_size) > room:
        raise LifeboatError(
            "image-full",
            f"{len(code)} bytes of code and a manifest of {size} bytes, "
            f"the flash has room for {room + block_size}",
            "leave something out, use a larger block size or a larger flash",
        )
    if draft and signer:
        _check_folder(output)
        raw = draft.signed(signer)
    manifest = parse_manifest(raw, flash_size=flash_size)  # what we ship keeps the rules
    data = bytearray(b"\xff" * flash_size)
    data[: len(code)] = code
    _put_manifest(data, manifest)
    _replace(output, data)
    return manifest


def _rest(size: int, block_size: int) -> int:
    """Bytes of flash that a manifest takes before the memory: all but its first block."""
    return -(-size // block_size) * block_size - block_size


def _put_manifest(data: bytearray, manifest: Manifest) -> None:
    """Put the manifest where it belongs in a flash, and 0xFF behind it."""
    raw, block_size = manifest.raw, manifest.block_size
    rest, room = _rest(len(raw), block_size), manifest.memory(len(data)).start
    data[room - rest : room] = raw[block_size:].ljust(rest, b"\xff")
    data[-block_size:] = raw[:block_size].ljust(block_size, b"\xff")


def _sound(image: Image, so: str = "") -> Manifest:
    """The manifest of an image whose blocks are right. Raises LifeboatError image-damaged."""
    manifest = image.manifest()
    if damaged_blocks(image, manifest):
        raise LifeboatError(
            "image-damaged",
            f"{image.path}: it is not what its manifest says{so}",
            "lifeboat image verify names the blocks; build it again",
        )
    return manifest


def sign(
    image: Image, output: PathLike, signer: Signer, *, keys: KeySet | None = None
) -> Manifest:
    """Write the image with a new signature, in place of the one that it has, if any.

    keys: the key set that it brings from now on; None: the one that it has stays.
    Raises LifeboatError: image-damaged, image-full, image-write, manifest-*, keyset-signer, and
    what signer.sign() raises.
    """
    old = _sound(image, ": nothing was signed")
    draft = drafts.draft(old, signer.public, keys)
    data = bytearray(image.read(0, image.flash_size))
    end = old.memory(len(data)).start
    before = end - _rest(len(old.raw), old.block_size)
    data[before:end] = b"\xff" * (end - before)
    first = end - _rest(draft.size, old.block_size)
    if first < old.code_size or data.count(0xFF, first, end) != end - first:
        raise LifeboatError(
            "image-full",
            f"{image.path}: with its signature the manifest takes {draft.size} bytes, and what "
            f"stands at 0x{first:x} is in its way",
            "build the image with a larger block size, or leave something out",
        )
    _check_folder(output)
    signed = parse_manifest(draft.signed(signer), flash_size=len(data))
    _put_manifest(data, signed)
    _replace(output, data)
    return signed


def _check_folder(path: PathLike) -> None:
    """Before something is signed that could not be written: a signature can't be taken back."""
    folder = Path(path).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LifeboatError(
            "image-write", f"{folder}: not a folder that you can write to", "choose another one"
        )


def _replace(path: PathLike, data: bytes | bytearray) -> None:
    """The file is the old one or the new one, never half of one."""
    try:
        files.replace(Path(path), data)
    except OSError as error:
        raise LifeboatError(
            "image-write", f"{path}: {error.strerror}", "check the folder and its free space"
        ) from None


class Image(AbstractContextManager["Image"]):
    """An image file, opened for reading. Use as a context manager.

    block_size: of the flash; when None it is found by looking for the manifest.
    """

    def __init__(self, path: PathLike, block_size: int | None = None) -> None:
        self.path = Path(path)
        self._fd, state = files.open_regular(self.path, "image-read", "name an image file")
        self.flash_size = state.st_size
        if self.flash_size > _FLASH_MAX:
            os.close(self._fd)
            raise LifeboatError(
                "image-read",
                f"{self.path}: {self.flash_size} bytes: no code flash is larger than "
                f"{_FLASH_MAX >> 20} MiB",
                "name an image of a code flash; for a disk: lifeboat region inspect",
            )
        self._block_size = block_size

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        return files.read_at(self._fd, size, offset)

    def manifest(self) -> Manifest:
        """The manifest of the last block. Raises LifeboatError: manifest-*, image-geometry."""
        block_size = self._block_size or self._find_block_size()
        if not 0 < block_size <= _BLOCK_MAX or block_size % UNIT or self.flash_size % block_size:
            raise LifeboatError(
                "image-geometry",
                f"{self.path}: {self.flash_size} bytes are not made of {block_size} byte blocks",
                "an image has the size of the code flash; check --block-size",
            )
        offset = self.flash_size - block_size
        data = self._manifest_bytes(block_size)
        try:
            return parse_manifest(data, block_size=block_size, flash_size=self.flash_size)
        except LifeboatError as error:
            if not error.hint:
                error.hint = (
                    "power the board on to have it mended, or build the image again"
                    if error.code in _DAMAGED
                    else "it breaks a rule of the format, it is not damaged: build the image again"
                )
            raise error.located(f"{self.path}, offset 0x{offset:x}") from None

    def _manifest_bytes(self, block_size: int) -> bytes:
        """The manifest that begins in the last block of that size, with what follows it there.

        Nothing in it has been checked: it may be cut off.
        """
        end = self.flash_size - block_size
        data = self.read(end, min(block_size, MANIFEST_LIMIT))
        if len(data) < MANIFEST.size or not data.startswith(MAGICS["manifest"]):
            return data
        total, memory_blocks = (
            int.from_bytes(data[a:b], "little") for a, b in ((12, 16), (104, 106))
        )
        rest = -(-min(total, MANIFEST_LIMIT) // block_size) * block_size - block_size
        at = end - memory_blocks * block_size - rest
        return data + self.read(at, rest) if rest > 0 and at >= 0 else data

    def memory(self, manifest: Manifest) -> Memory | None:
        """What stands where the manifest has the controller's memory; None when it has none."""
        mirrors = [self.read(at, size) for at, size in mirror_ranges(manifest, self.flash_size)]
        return memory.parse(mirrors[0], mirrors[1]) if mirrors else None

    def _find_block_size(self) -> int:
        size = UNIT
        while size <= self.flash_size:
            at = self.flash_size - size
            if self.flash_size % size == 0 and self.read(at, 8) == MAGICS["manifest"]:
                try:
                    parse_manifest(self._manifest_bytes(size), block_size=size)
                    return size
                except LifeboatError as error:
                    own = int.from_bytes(self.read(at + 16, 4), "little")
                    # Whole, but of a flash with other blocks: content that looks like a manifest.
                    if own == size or error.code in _DAMAGED:
                        return size  # damaged or wrong, but here: manifest() says how
            size += UNIT
        raise LifeboatError(
            "manifest-magic",
            f"{self.path}: no manifest in the last block of any size",
            "give --block-size to look at a damaged image, or build it again",
        )


def mirror_ranges(manifest: Manifest, flash_size: int) -> list[tuple[int, int]]:
    """(offset, bytes) of both mirrors of the memory in such a flash; empty when it has none."""
    both = manifest.memory(flash_size)
    half = len(both) // 2
    return [(both.start, half), (both.start + half, half)] if half else []


# --- into a chip that has a memory -----------------------------------------------------------


@dataclass(frozen=True)
class Put:
    """What put() would do. old: the chip's manifest, None when it can't be read."""

    new: Manifest
    old: Manifest | None
    memory: Memory | None
    content: bytes

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return self.new.ranges(len(self.content))


def plan_put(image: Image, chip: Image) -> Put:
    """Look whether the code of `image` can replace that of the chip's dump; writes nothing.

    Raises LifeboatError: image-geometry, image-damaged, memory-place, manifest-* (of the image).
    """
    new = _sound(image)
    if image.flash_size != chip.flash_size:
        raise LifeboatError(
            "image-geometry",
            f"{image.path} is for a flash of {image.flash_size} bytes, "
            f"{chip.path} has {chip.flash_size}",
            "an image has the size of the code flash",
        )
    try:
        old = chip.manifest()
    except LifeboatError:
        old = None
    place = new.memory(image.flash_size)
    if old is not None and old.memory(chip.flash_size) != place:
        raise _other_place(image, chip, _place(old.memory(chip.flash_size)), _place(place))
    starts = [at for at, _ in mirror_ranges(new, image.flash_size)]
    for at in range(0, chip.flash_size, UNIT):
        if at not in starts and _is_memory(chip.read(at, memory.HEADER_SIZE)):
            raise _other_place(image, chip, f"a memory at 0x{at:x}", _place(place))
    return Put(new, old, chip.memory(new), image.read(0, image.flash_size))


def _is_memory(data: bytes) -> bool:
    try:
        memory.parse_header(data)
    except LifeboatError as error:
        return error.code == "memory-version"
    return True


def _place(place: range) -> str:
    return f"a memory at 0x{place.start:x} to 0x{place.stop - 1:x}" if place else "no memory"


def _other_place(image: Image, chip: Image, there: str, wanted: str) -> LifeboatError:
    return LifeboatError(
        "memory-place",
        f"{chip.path} has {there}, {image.path} has {wanted}",
        "build the image for this chip; or program all of it, if its memory may be lost",
    )


def put(plan: Put, path: PathLike) -> None:
    """Replace code and manifest in the dump, all at once. Raises LifeboatError image-write."""
    data = bytearray(files.read(Path(path), _FLASH_MAX, "image-read", "name a dump")[0])
    for at, size in plan.ranges:
        data[at : at + size] = plan.content[at : at + size]
    _replace(path, data)


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
    """Whether the manifest's blocks are 0xFF after the manifest."""
    size = manifest.manifest_blocks * manifest.block_size - len(manifest.raw)
    end = image.flash_size
    if manifest.manifest_blocks > 1:
        end = manifest.memory(image.flash_size).start
    return image.read(end - size, size).count(0xFF) == size
