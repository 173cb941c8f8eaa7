"""Every kind of damage, on the board with real images: the next power-on heals it exactly."""

import random
import shutil

import pytest

from qemu.rig import MB

SIZES = {"8MB": 8 * MB, "16MB": 16 * MB, "32MB": 32 * MB}


def ten_flipped_bits(rig, rng, used):
    places = rng.sample(range(used), 10)
    return [(at, bytes([rig.good[at] ^ 1 << rng.randrange(8)])) for at in places]


def erased_block(rig, rng, used):
    size = rig.spec.block_size
    blank = b"\xff" * size
    # Real firmware has blank blocks of its own.
    filled = [i for i in range(rig.blocks) if rig.good[i * size : (i + 1) * size] != blank]
    return [(rng.choice(filled) * size, blank)]


def thousand_random_bytes(rig, rng, used):
    places = list(range(used)) + list(range(rig.manifest_at, rig.spec.flash_size))
    return [(at, rng.randbytes(1)) for at in rng.sample(places, 1000)]


def whole_flash_erased(rig, rng, used):
    return [(0, b"\xff" * rig.spec.flash_size)]


def manifest_destroyed(rig, rng, used):
    return [(rig.manifest_at, rng.randbytes(rig.spec.block_size))]


def first_and_last_block(rig, rng, used):
    size = rig.spec.block_size
    return [(0, rng.randbytes(size)), (used - size, rng.randbytes(size))]


def half_of_another_image(rig, rng, used):
    other = rig.folder / "other"
    other.mkdir()
    another = type(rig)(rig.spec, other)
    another.make_image(used, version="9.9", seed=99)
    size = rig.spec.block_size
    blocks = [*range(rig.blocks), rig.manifest_block]
    half = rng.sample(blocks, len(blocks) // 2)
    return [(i * size, another.good[i * size : (i + 1) * size]) for i in half]


DAMAGE = [
    ten_flipped_bits,
    erased_block,
    thousand_random_bytes,
    whole_flash_erased,
    manifest_destroyed,
    first_and_last_block,
    half_of_another_image,
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_damage_is_healed_block_by_block(protected, tmp_path, size, damage):
    rig = protected(SIZES[size]).copy_to(tmp_path)
    try:
        used = rig.blocks * rig.spec.block_size
        rng = random.Random(f"{size} {damage.__name__}")
        damaged = rig.damage(*damage(rig, rng, used))
        assert damaged
        disks_before = rig.hashes_but_journals()[1:]
        report = rig.heal()
        # I8: what is damaged is erased, and nothing else.
        damaged = [b for b in damaged if b < rig.blocks or b == rig.manifest_block]
        assert report["erases"] == len(damaged)
        repaired = [b for first, n, _ in report["repaired"] for b in range(first, first + n)]
        # A full list has its last range stretched over what lies between (format.md section 4).
        full = len(report["repaired"]) == 32
        assert set(repaired) >= set(damaged) if full else sorted(repaired) == damaged
        assert rig.hashes_but_journals()[1:] == disks_before
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_application_survives_a_reset_of_the_board(rig8):
    with rig8.board() as board:
        board.wait_for("app: running")
        board.reset()
        report = board.power_on_report()
        assert report["verdict"] == "RUN" and report["erases"] == 0
        board.wait_for("app: running")
