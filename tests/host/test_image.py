"""image.py: build, inspect and verify embedded-code images."""

import hashlib
import random
import zlib
from pathlib import Path

import handmade
import pytest

from lifeboat_host import image
from lifeboat_host.errors import LifeboatError

FLASH = 16 * 4096
NUMBERS = {"product": "prod", "version": "1.2", "flash_size": FLASH, "block_size": 4096}


@pytest.fixture
def os_file(tmp_path):
    path = tmp_path / "u-boot.bin"
    path.write_bytes(random.Random(1).randbytes(5000))
    return path


def test_an_image_is_code_then_erased_flash_then_the_manifest(tmp_path, os_file):
    blob = tmp_path / "blob"
    blob.write_bytes(b"data")
    sources = [image.Source("os", os_file), image.Source("tuning", blob)]
    image.build(sources, tmp_path / "out.img", **NUMBERS)
    code = os_file.read_bytes().ljust(8192, b"\xff") + b"data".ljust(4096, b"\xff")
    raw = handmade.manifest(
        [code[at : at + 4096] for at in range(0, len(code), 4096)],
        segments=((b"os", 1, 0, 5000), (b"tuning", 0, 8192, 4)),
    )
    expected = code.ljust(FLASH - 4096, b"\xff") + raw.ljust(4096, b"\xff")
    assert (tmp_path / "out.img").read_bytes() == expected


def test_a_folder_becomes_a_romfs_and_the_same_input_gives_the_same_bytes(tmp_path):
    folder = tmp_path / "src"
    (folder / "lib").mkdir(parents=True)
    (folder / "main.py").write_text("print('main')\n")
    (folder / "lib" / "a.py").write_text("A = 1\n")
    outputs = []
    for name in ("one.img", "two.img"):
        manifest = image.build([image.Source("app", folder)], tmp_path / name, **NUMBERS)
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]
    assert manifest.segments[0].kind_name == "romfs"
    assert outputs[0].startswith(b"\xd2\xcd\x31")  # what VfsRom looks for
    assert b"print('main')\n" in outputs[0]


def test_a_ready_made_romfs_is_taken_as_it_is(tmp_path):
    romfs = tmp_path / "app.romfs"
    romfs.write_bytes(b"\xd2\xcd\x31\x00")
    source = image.Source("app", romfs)
    assert source.content() == b"\xd2\xcd\x31\x00"
    manifest = image.build([source], tmp_path / "out.img", **NUMBERS)
    assert manifest.segments[0].kind_name == "romfs"


def test_code_that_fills_the_flash_fits_and_one_byte_more_does_not(tmp_path):
    path = tmp_path / "os.bin"
    path.write_bytes(b"x" * (FLASH - 4096))
    manifest = image.build([image.Source("os", path)], tmp_path / "out.img", **NUMBERS)
    assert manifest.block_count == 15
    path.write_bytes(b"x" * (FLASH - 4095))
    with pytest.raises(LifeboatError) as caught:
        image.build([image.Source("os", path)], tmp_path / "out.img", **NUMBERS)
    assert caught.value.code == "image-full"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"block_size": 1000}, "image-geometry"),
        ({"block_size": 0}, "image-geometry"),
        ({"flash_size": FLASH + 1}, "image-geometry"),
        ({"product": ""}, "manifest-field"),
        ({"version": "v" * 25}, "manifest-field"),
        ({"security_counter": 1 << 32}, "manifest-field"),
    ],
)
def test_what_cannot_be_built_is_refused_and_leaves_no_file(tmp_path, os_file, changes, expected):
    with pytest.raises(LifeboatError) as caught:
        image.build([image.Source("os", os_file)], tmp_path / "out", **{**NUMBERS, **changes})
    assert caught.value.code == expected
    assert not (tmp_path / "out").exists()


def test_missing_sources_and_unwritable_outputs_are_named(tmp_path, os_file):
    with pytest.raises(LifeboatError, match="no-such-file") as caught:
        image.build([image.Source("a", tmp_path / "no-such-file")], tmp_path / "out", **NUMBERS)
    assert caught.value.code == "segment-source"
    with pytest.raises(LifeboatError, match="no-such-dir") as caught:
        image.build([image.Source("os", os_file)], tmp_path / "no-such-dir" / "out", **NUMBERS)
    assert caught.value.code == "image-write"


def test_every_damaged_block_is_listed(tmp_path, os_file):
    path = tmp_path / "out.img"
    manifest = image.build([image.Source("os", os_file)], path, **NUMBERS)
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)
    with image.Image(path) as file:
        assert image.damaged_blocks(file, manifest) == [image.Damage(1, 4096, False, False, False)]
        assert image.padding_clean(file, manifest)
    path.write_bytes(b"\xff" * 4096 + data[4096:-1] + b"\0")
    with image.Image(path) as file:
        found = image.damaged_blocks(file, manifest)
        assert [(damage.block, damage.erased) for damage in found] == [(0, True), (1, False)]
        assert not image.padding_clean(file, manifest)


def test_a_block_with_a_forged_crc_is_found_by_its_sha(tmp_path):
    # four bytes chosen so that the CRC-32 stays: the digest must notice
    block = bytearray(4096)
    wanted = zlib.crc32(bytes(4096))
    block[0] = 1
    block[-4:] = _crc_patch(bytes(block[:-4]), wanted)
    assert zlib.crc32(block) == wanted
    assert hashlib.sha256(block).digest() != hashlib.sha256(bytes(4096)).digest()
    raw = handmade.manifest([bytes(4096)], segments=((b"os", 1, 0, 4096),))
    path = tmp_path / "forged.img"
    path.write_bytes(bytes(block).ljust(FLASH - 4096, b"\xff") + raw.ljust(4096, b"\xff"))
    with image.Image(path) as file:
        found = image.damaged_blocks(file, file.manifest())
    assert [(damage.crc_ok, damage.sha_ok) for damage in found] == [(True, False)]


def _crc_patch(prefix, wanted):
    """Four bytes that give prefix + bytes the CRC `wanted`: CRC is linear, so solve for bits."""
    base = zlib.crc32(prefix + bytes(4)) ^ wanted
    rows = []
    for bit in range(32):
        vector = (1 << bit).to_bytes(4, "little")
        rows.append((zlib.crc32(prefix + vector) ^ zlib.crc32(prefix + bytes(4)), 1 << bit))
    solution = 0
    for position in reversed(range(32)):
        pivot = next(row for row in rows if row[0] >> position == 1)
        rows.remove(pivot)
        rows = [(v ^ pivot[0], m ^ pivot[1]) if v >> position & 1 else (v, m) for v, m in rows]
        if base >> position & 1:
            base ^= pivot[0]
            solution ^= pivot[1]
    return solution.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "manifest-magic"),
        (b"\xff" * FLASH, "manifest-magic"),
        (random.Random(2).randbytes(FLASH), "manifest-magic"),
        (bytes(FLASH - 4096) + handmade.manifest()[:-1].ljust(4096, b"\xff"), "manifest-crc"),
        (bytes(FLASH - 4096) + handmade.manifest().ljust(4095, b"\xff"), "manifest-magic"),
    ],
)
def test_damaged_images_are_refused_with_file_and_next_step(tmp_path, content, expected):
    path = tmp_path / "damaged.img"
    path.write_bytes(content)
    with image.Image(path) as file, pytest.raises(LifeboatError) as caught:
        file.manifest()
    assert caught.value.code == expected
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_missing_image_is_an_error_with_its_name():
    with pytest.raises(LifeboatError, match="no-such-image"):
        image.Image(Path("no-such-image"))
