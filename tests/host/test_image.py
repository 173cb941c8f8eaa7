"""image.py: build, inspect and verify embedded-code images."""

import hashlib
import random
import zlib
from pathlib import Path

import handmade
import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model import image

FLASH = 24 * 4096
MEMORY = 8 * 4096  # two mirrors of 64 pages of 256 bytes
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
        memory_blocks=8,
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


@pytest.mark.parametrize("memory", [True, False])
def test_code_that_fills_the_flash_fits_and_one_byte_more_does_not(tmp_path, memory):
    path = tmp_path / "os.bin"
    room = FLASH - 4096 - (MEMORY if memory else 0)
    path.write_bytes(b"x" * room)
    sources = [image.Source("os", path)]
    manifest = image.build(sources, tmp_path / "out.img", with_memory=memory, **NUMBERS)
    assert manifest.block_count == (15 if memory else 23)
    assert manifest.memory_blocks == (8 if memory else 0)
    path.write_bytes(b"x" * (room + 1))
    with pytest.raises(LifeboatError) as caught:
        image.build(sources, tmp_path / "out.img", with_memory=memory, **NUMBERS)
    assert caught.value.code == "image-full"


@pytest.mark.parametrize(
    ("block_size", "blocks"), [(4096, 8), (8192, 4), (16384, 2), (65536, 2), (262144, 2)]
)
def test_room_for_the_memory_is_two_mirrors_of_64_pages(tmp_path, os_file, block_size, blocks):
    numbers = {**NUMBERS, "flash_size": 12 * block_size, "block_size": block_size}
    out = tmp_path / "out.img"
    manifest = image.build([image.Source("os", os_file)], out, **numbers)
    assert manifest.memory_blocks == blocks
    start = (11 - blocks) * block_size
    assert out.read_bytes()[start : 11 * block_size] == b"\xff" * blocks * block_size
    with image.Image(out) as file:
        assert file.memory(manifest).state == "empty"


@pytest.mark.parametrize("memory", [0, 8])
def test_a_manifest_of_several_blocks_stands_in_two_places(tmp_path, memory):
    content = random.Random(3).randbytes(200 * 4096)
    path, out = tmp_path / "os.bin", tmp_path / "out.img"
    path.write_bytes(content)
    numbers = {**NUMBERS, "flash_size": (203 + memory) * 4096}
    made = image.build([image.Source("os", path)], out, with_memory=bool(memory), **numbers)
    blocks = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    raw = handmade.manifest(blocks, ((b"os", 1, 0, len(content)),), memory_blocks=memory)
    rest = raw[4096:].ljust(4096, b"\xff")
    expected = content + b"\xff" * 4096 + rest + b"\xff" * memory * 4096 + raw[:4096]
    assert out.read_bytes() == expected
    with image.Image(out) as file:
        assert file.manifest() == made
        assert image.damaged_blocks(file, made) == []
        assert image.padding_clean(file, made)
    data = bytearray(expected)
    data[202 * 4096 - 1] = 0  # behind the manifest
    out.write_bytes(data)
    with image.Image(out) as file:
        assert not image.padding_clean(file, file.manifest())
    data[201 * 4096 + 5] ^= 1  # in the part that stands before the memory
    out.write_bytes(data)
    with image.Image(out) as file, pytest.raises(LifeboatError) as caught:
        file.manifest()
    assert caught.value.code == "manifest-crc"


def test_a_manifest_that_leaves_no_room_for_itself_is_refused(tmp_path):
    path = tmp_path / "os.bin"
    path.write_bytes(bytes(201 * 4096))
    numbers = {**NUMBERS, "flash_size": 202 * 4096}
    with pytest.raises(LifeboatError) as caught:
        image.build([image.Source("os", path)], tmp_path / "out", with_memory=False, **numbers)
    assert caught.value.code == "image-full"


def test_too_large_a_manifest_asks_for_a_larger_block_size(tmp_path):
    path = tmp_path / "os.bin"
    with open(path, "wb") as file:
        file.truncate(29200 * 4096)  # 36 bytes each: over 1 MiB
    numbers = {**NUMBERS, "flash_size": 1 << 27}
    with pytest.raises(LifeboatError) as caught:
        image.build([image.Source("os", path)], tmp_path / "out", **numbers)
    assert caught.value.code == "manifest-size"
    assert "--block-size" in caught.value.hint


def test_images_of_older_formats_are_read_without_a_block_size(tmp_path):
    path = tmp_path / "old.img"
    for block in (4096, 12288, 65536):
        raw = handmade.manifest([bytes(block)], ((b"os", 1, 0, 16),), block_size=block, minor=0)
        path.write_bytes(bytes(block) + b"\xff" * block + raw.ljust(block, b"\xff"))
        with image.Image(path) as file:
            assert file.manifest().block_size == block


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segments": ((b"a", 0, 0, 16), (b"a", 0, 16, 16))}, "there twice"),
        ({"segments": ((b"a", 0, 8, 16),)}, "overlaps or odd"),
        ({"product": b""}, "product"),
        ({"signature_type": 2, "signature": b"x"}, "signature_type"),
        ({"version": b"\x1b[2J"}, "control characters"),
        ({"patch": [(96, b"\1")]}, "forbids"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_told_as_that(tmp_path, changes, reason):
    path = tmp_path / "wrong.img"
    raw = handmade.manifest(**changes)
    path.write_bytes(b"\xff" * (FLASH - 4096) + raw.ljust(4096, b"\xff"))
    with image.Image(path) as file, pytest.raises(LifeboatError, match=reason) as caught:
        file.manifest()
    assert caught.value.code in ("manifest-field", "manifest-version")
    assert "power the board on" not in caught.value.hint
    assert "\x1b" not in caught.value.message


def test_what_only_looks_like_a_manifest_of_other_blocks_is_passed_by(tmp_path):
    # In a manifest block of 8192 bytes the last 4096 begin like a manifest of such blocks.
    other = handmade.manifest(block_size=16384)
    raw = handmade.manifest([bytes(8192)], ((b"os", 1, 0, 16),), block_size=8192)
    path = tmp_path / "odd.img"
    block = raw.ljust(4096, b"\xff") + other.ljust(4096, b"\xff")
    path.write_bytes(bytes(8192) + block)
    with image.Image(path) as file:
        assert file.manifest().raw == raw


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


# --- put: new code into a chip that remembers ------------------------------------------------


def mirrors(**header):
    one = handmade.mirror(
        handmade.memory_record(3, 1, handmade.build_payload(b"B" * 32)), **header
    )
    return one + one


def chip_of(path, memory=None, at=15 * 4096):
    """Make a file a dump of a chip that has run: with a memory."""
    data = bytearray(path.read_bytes())
    if memory:
        data[at : at + len(memory)] = memory
    path.write_bytes(data)
    return bytes(data)


def planned(new, chip):
    with image.Image(new) as one, image.Image(chip) as two:
        return image.plan_put(one, two)


@pytest.fixture
def images(tmp_path, os_file):
    """An image, and another one of the same board that becomes a chip."""
    new, chip = tmp_path / "new.img", tmp_path / "chip.img"
    image.build([image.Source("os", os_file)], new, **NUMBERS)
    other = tmp_path / "other"
    other.write_bytes(random.Random(5).randbytes(30000))
    image.build([image.Source("app", other)], chip, **{**NUMBERS, "version": "0.9"})
    return new, chip


def test_put_replaces_code_and_manifest_and_leaves_the_rest(images):
    new, chip = images
    before = chip_of(chip, mirrors())
    plan = planned(*images)
    assert (plan.old.version, plan.memory.state, len(plan.memory.builds)) == ("0.9", "ok", 1)
    assert plan.ranges == [(0, 8192), (23 * 4096, 4096)]
    image.put(plan, chip)
    after, content = chip.read_bytes(), new.read_bytes()
    assert after[:8192] == content[:8192]
    assert after[8192 : 23 * 4096] == before[8192 : 23 * 4096]
    assert after[23 * 4096 :] == content[23 * 4096 :]


def test_put_takes_a_chip_whose_manifest_is_gone_when_no_memory_is_elsewhere(images):
    new, chip = images
    data = chip_of(chip, mirrors())
    chip.write_bytes(data[: 23 * 4096] + bytes(4096))
    assert planned(*images).old is None


@pytest.mark.parametrize(
    ("memory", "at"),
    [
        (mirrors(), 11 * 4096),  # before the place that the new image says
        (mirrors()[:16384], 7 * 4096),
        (handmade.memory_header(patch=[(8, b"\2")]), 4096),  # of a newer format
    ],
)
@pytest.mark.parametrize("manifest", [True, False])
def test_put_refuses_a_chip_with_a_memory_elsewhere(images, memory, at, manifest):
    new, chip = images
    data = chip_of(chip, memory, at)
    if not manifest:
        chip.write_bytes(data[: 23 * 4096] + b"\xff" * 4096)
    with pytest.raises(LifeboatError) as caught:
        planned(*images)
    assert caught.value.code == "memory-place"


def test_put_refuses_other_sizes_places_and_damaged_images(images, tmp_path, os_file):
    new, chip = images
    other = tmp_path / "second.img"
    for keywords, expected in (
        ({"with_memory": False}, "memory-place"),
        ({"flash_size": 2 * FLASH}, "image-geometry"),
    ):
        image.build([image.Source("os", os_file)], other, **{**NUMBERS, **keywords})
        for pair in ((other, chip), (new, other)):
            with pytest.raises(LifeboatError) as caught:
                planned(*pair)
            assert caught.value.code == expected
    data = bytearray(new.read_bytes())
    data[7] ^= 1
    new.write_bytes(data)
    with pytest.raises(LifeboatError) as caught:
        planned(*images)
    assert caught.value.code == "image-damaged"


def test_put_without_memories_is_for_boards_without_one(tmp_path, os_file):
    paths = [tmp_path / name for name in ("new", "chip")]
    for path in paths:
        image.build([image.Source("os", os_file)], path, with_memory=False, **NUMBERS)
    assert planned(*paths).memory is None
