"""The host tools read what every version of the format has left on media."""

import hashlib

import golden
import pytest
from golden import make

from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import image, journal, memory, region

# Of the committed files: a golden file does not change any more.
BUILDS = {
    "1.0": "ca54092cb892",
    "1.1": "b42c19fdad95",
    "1.2": "9b2a656400d9",
}


@pytest.fixture
def media(tmp_path):
    def make_media(version):
        flash, disk = tmp_path / "flash.img", tmp_path / "disk.img"
        flash.write_bytes(golden.image(version))
        count, sectors = golden.disk(version)
        with open(disk, "wb") as file:
            file.truncate(count * 512)
            for lba, content in sectors.items():
                file.seek(lba * 512)
                file.write(content)
        return flash, disk

    return make_media


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_the_image_is_read(media, version):
    with image.Image(media(version)[0]) as file:
        manifest = file.manifest()
        assert image.damaged_blocks(file, manifest) == []
        assert image.padding_clean(file, manifest)
        found = file.memory(manifest)
    assert (manifest.product, manifest.version) == ("sim", f"golden {version}")
    assert (manifest.block_size, manifest.block_count, manifest.security_counter) == (4096, 6, 3)
    assert [(s.name, s.kind_name, s.offset, s.size) for s in manifest.segments] == [
        ("os", "os", 0, 12188),
        ("app", "romfs", 12288, 12288),
    ]
    assert manifest.build == BUILDS[version]
    assert (manifest.memory_blocks, found is None) == (
        (8, False) if version == "1.2" else (0, True)
    )


def test_the_memory_knows_the_set_and_the_build(media):
    flash, _ = media("1.2")
    with image.Image(flash) as file:
        found = file.memory(file.manifest())
    assert (found.state, found.epoch, found.damage) == ("ok", 1, ())
    assert found.set_id == bytes(range(0x10, 0x20))
    assert found.members == (
        memory.Member(found.set_id, bytes(range(0x20, 0x30)), 2048, 2984, 512, 0, 1, "sata0"),
    )
    (build,) = found.builds
    assert (build.build_id.hex()[:12], build.security_counter) == (BUILDS["1.2"], 3)
    assert (found.rejected, found.failed, found.counter) == ((), {}, 0)


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_the_region_is_read(media, version):
    with Disk(media(version)[1]) as disk:
        found = region.find(disk)
        slots = region.read_slots(disk, found.header)
        checks = region.verify(disk, slots)
    header = found.header
    assert (found.how, found.headers_ok, found.agreed) == ("tail", True, True)
    assert (header.start_lba, header.slot_count, header.header_serial) == (2048, 2, 0)
    assert header.product == ("sim" if version == "1.2" else "")
    assert header.slot(0) - header.start == (65536 if version == "1.2" else 4096)
    assert [slot.why for slot in slots] == ["", "commit-magic"]
    assert (slots[0].commit.generation, slots[0].manifest.build) == (1, BUILDS[version])
    assert [check.bad for check in checks] == [[]]
    extents = [(1, 2), (2, 129), (3, 128)] if version == "1.2" else []
    assert [(extent.kind, extent.units) for extent in header.extents] == extents


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_the_journal_is_read(media, version):
    with Disk(media(version)[1]) as disk:
        header = region.find(disk).header
        if version == "1.0":
            assert header.journal is None
            return
        found = journal.read(disk, header)
    assert (found.units, found.used, found.damaged) == (32, 1, ())
    assert [(e.number, e.session, e.event, e.code, e.where, e.first) for e in found.entries] == [
        (1, 1, "power-on", "RUN", f"golden {version}", 0),
        (2, 1, "created", "", "sata0", 1),
    ]


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_commands_read_and_remove_it(lifeboat, media, version, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flash, disk = media(version)
    assert lifeboat("image", "verify", flash)[0] == 0
    assert lifeboat("region", "inspect", disk)[0] == 0
    assert lifeboat("region", "verify", disk, "--image", flash)[0] == 0
    assert lifeboat("region", "remove", disk, "--yes")[0] == 0
    assert lifeboat("region", "inspect", disk)[0] == 1


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_the_files_are_what_make_explains(version):
    content = make.disk(version)
    count, sectors = golden.disk(version)
    assert len(content) == count * 512
    assert {
        lba: content[lba * 512 : lba * 512 + 512]
        for lba in range(count)
        if any(content[lba * 512 : lba * 512 + 512])
    } == sectors
    assert make.image(version) == golden.image(version)


# A file that a release has written is never made anew.
SUMS = {
    "1.0": ("f51c80184d20516c", "3907b2f1a921a33d"),
    "1.1": ("9b50d5278cb5696e", "96cd955cdc2a2763"),
    "1.2": ("14adcfb24e8fbcf3", "1aeef359daa5094c"),
}


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_the_files_have_not_changed(version):
    count, sectors = golden.disk(version)
    disk = b"".join(sectors.get(lba, bytes(512)) for lba in range(count))
    digests = (hashlib.sha256(data).hexdigest()[:16] for data in (golden.image(version), disk))
    assert tuple(digests) == SUMS[version]
