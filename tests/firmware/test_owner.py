"""Boards with keys: only what the owner signed runs, and nothing older than what ran (I9)."""

import hashlib
import struct

import pytest

import lifeboat
from fakes import board as sim
from fakes import forgery, signer
from fakes.forgery import Place, install, parts, same_crc
from lifeboat import owner, running
from lifeboat import trust as trust_module
from lifeboat.codeflash import CodeFlash
from lifeboat.errors import LifeboatError
from lifeboat.lms import verify
from lifeboat.manifest import Manifest
from lifeboat.scrub import Scrubber
from lifeboat.trust import Trust
from sim.power import Power, PowerCut

SIZE = sim.ERASE
A, B, EVIL = signer.key(1), signer.key(2), signer.key(666)
SET = signer.key_set(1, (signer.ALL, A))
ONE = A.image(forgery.image(1, "1.0"), counter=1)
TWO = A.image(forgery.image(2, "2.0"), counter=2)


def board_with(image=ONE, members=2, **names):
    it = sim.SimBoard(bytearray(image), members=members, slots=3, journal=4)
    for name, value in {"UNSIGNED": False, "KEYS": SET, **names}.items():
        setattr(it, name, value)
    return it


def on(board, **how):
    return lifeboat.power_on(board, **how)


def codes(report):
    return {code for code, _, _ in report.data["reasons"]}


def place(board, member=0):
    return Place(board.drives[member], len(board.nor.data) // SIZE, 3, 4)


def damage(board, *blocks, manifest=False):
    for block in blocks:
        board.nor.data[block * SIZE : (block + 1) * SIZE] = b"\xff" * SIZE
    if manifest:
        board.nor.data[-SIZE:] = b"\xff" * SIZE


def wipe_flash(board):
    damage(board, *range(6), manifest=True)


# What runs


def test_a_healthy_board_says_what_rules_and_writes_nothing():
    board = board_with()
    report = on(board)
    assert (report.verdict, codes(report)) == ("RUN", set())
    data = report.data
    assert (data["trust"], data["counter"], data["keys"]) == ("signed", 1, 1)
    assert data["console"] == "open"
    flash, chip = bytes(board.nor.data), bytes(board.chip.data)
    media = [dict(disk.sectors) for disk in board.drives]
    report = on(board)
    assert (report.verdict, codes(report)) == ("RUN", set())
    assert (board.nor.data, board.chip.data) == (flash, chip)
    assert [disk.sectors for disk in board.drives] == media


def unsigned():
    return forgery.image(3, "3.0"), "signature-none"


def of_a_stranger():
    return EVIL.image(forgery.image(3, "3.0"), counter=9), "key-unknown"


def with_the_owners_id():
    code, raw = parts(forgery.image(3, "3.0"))
    raw = signer.signed(raw, EVIL.sign, A.id, counter=9)
    image = forgery.image(3, "3.0")[:-SIZE] + forgery.pad(raw, SIZE, b"\xff")
    return image, "signature-bad"


def with_a_changed_bit():
    image = bytearray(TWO)
    _, raw = parts(image)
    raw = bytearray(raw)
    raw[-700] ^= 4
    raw[-4:] = struct.pack("<I", sim.crc32(raw[:-4]))
    image[-SIZE:] = forgery.pad(bytes(raw), SIZE, b"\xff")
    return bytes(image), "signature-bad"


def with_the_code_of_another():
    """The signature of one build over another one: all digests but one are the owner's."""
    image = bytearray(forgery.image(3, "2.0"))
    _, raw = parts(TWO)
    _, evil = parts(image)
    end = 128 + 48 + 36 * 6
    raw = bytearray(raw)
    raw[176:end] = evil[176:end]
    raw[-4:] = struct.pack("<I", sim.crc32(raw[:-4]))
    image[-SIZE:] = forgery.pad(bytes(raw), SIZE, b"\xff")
    return bytes(image), "signature-bad"


def without_a_key():
    return forgery.image(3, "3.0")[:-SIZE] + forgery.pad(
        signer.signed(parts(forgery.image(3, "3.0"))[1], lambda m: b"", b"x" * 8), SIZE, b"\xff"
    ), "key-unknown"


FORGERIES = [
    unsigned, of_a_stranger, with_the_owners_id, with_a_changed_bit, with_the_code_of_another,
    without_a_key,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES)
def test_code_that_the_owner_did_not_sign_does_not_run(forge):
    image, code = forge()
    board = board_with(image)
    report = on(board)
    assert report.verdict == "RESCUE"
    assert code in codes(report)
    assert not any(place(board, m).holds(s, image) for m in (0, 1) for s in range(3))


@pytest.mark.parametrize("forge", FORGERIES)
def test_what_somebody_flashed_is_replaced_by_what_the_owner_signed(forge):
    board = board_with()
    assert on(board).verdict == "RUN"
    image, _ = forge()
    install(board, image)
    report = on(board)
    assert report.verdict == "RUN"
    assert (parts(board.nor.data), report.data["counter"]) == (parts(ONE), 1)


@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("lost", [False, True])
def test_no_copy_that_the_owner_did_not_sign_comes_back(forge, lost):
    board = board_with()
    on(board)
    image, _ = forge()
    for member in (0, 1):
        for slot in range(3):
            place(board, member).plant(slot, image, 50 + slot)
    wipe_flash(board)
    if lost:
        board.chip.data[:] = b"\xff" * len(board.chip.data)
    report = on(board)
    assert report.verdict == "RESCUE"
    assert board.nor.data[: 6 * SIZE] == b"\xff" * 6 * SIZE


@pytest.mark.parametrize(
    "names",
    [
        {"UNSIGNED": True},
        {"KEYS": b""},
        {"KEYS": b"\0"},
        {"KEYS": SET[:-1]},
        {"KEYS": signer.key_set(1, (signer.UNLOCK, A))},
        {"KEYS": signer.key_set(1, (0, A))},
        {"KEYS": signer.key_set(1, (signer.ALL, A), (signer.ALL, A))},
        {"KEYS": signer.key_set(1, *[(signer.ALL, signer.key(i)) for i in range(5)])},
        {"KEYS": signer.key_set(1)},
        {"KEYS": signer.key_set(1, (signer.ALL, bytes(48)))},
        {"KEYS": signer.key_set(1, (signer.ALL, A.public + b"\1"))},
    ],
)
def test_a_board_that_does_not_say_clearly_what_may_run_runs_nothing(names):
    board = board_with(**names)
    report = on(board)
    assert (report.verdict, codes(report)) == ("RESCUE", {"policy"})
    assert board.nor.data == ONE


@pytest.mark.parametrize("roles", [signer.UNLOCK, signer.KEYS, signer.UNLOCK | signer.KEYS])
def test_a_key_of_another_role_signs_no_code(roles):
    board = board_with(KEYS=signer.key_set(1, (roles, A), (signer.CODE, B)))
    report = on(board)
    assert report.verdict == "RESCUE" and "key-unknown" in codes(report)


def test_a_right_signature_does_not_vouch_for_another_one_of_the_same_build():
    board = board_with()
    trust = Trust(board, CodeFlash(board.nor, SIZE)).recall()
    _, raw = parts(ONE)
    forged = bytearray(raw)
    forged[-700] ^= 4
    forged[-4:] = struct.pack("<I", sim.crc32(forged[:-4]))
    trust.accept(Manifest(raw))
    assert Manifest(raw).build == Manifest(forged).build
    with pytest.raises(LifeboatError) as caught:
        trust.accept(Manifest(forged))
    assert caught.value.code == "signature-bad"


def test_hss_keys_and_other_sizes_do():
    key = signer.key(5, signer.M32_H5, signer.N32_W8)
    board = board_with(key.image(forgery.image(1, "1.0")), KEYS=signer.key_set(1, (1, key)))
    assert on(board).verdict == "RUN"


# What heals


def test_damage_is_repaired_from_the_backup():
    board = board_with()
    on(board)
    damage(board, 2, 4)
    report = on(board)
    assert report.verdict == "RUN"
    assert board.nor.data == ONE


@pytest.mark.parametrize("lost", [False, True])
def test_a_wiped_board_comes_back(lost):
    board = board_with()
    on(board)
    wipe_flash(board)
    if lost:
        board.chip.data[:] = b"\xff" * len(board.chip.data)
    report = on(board)
    assert report.verdict == "RUN"
    assert parts(board.nor.data) == parts(ONE)


def test_another_signed_build_of_the_own_set_comes_back_last_and_is_told():
    board = board_with()
    on(board)
    for member in (0, 1):
        place(board, member).plant(0, TWO, 9)
    wipe_flash(board)
    report = on(board)
    assert parts(board.nor.data) == parts(TWO)
    assert "other-build" in codes(report)


def test_another_signed_build_of_another_set_does_not_come_back():
    board = board_with(members=1)
    on(board)
    disk = sim.RamDisk("disk1", board.drives[0].count, board.power)
    there = place(board)
    sim.make_region(
        disk, set_id=b"X" * 16, slot=there.slot_size, slots=3, size=there.size, journal=4
    )
    board.drives[:] = [disk]
    place(board).plant(0, TWO, 9)
    wipe_flash(board)
    assert on(board).verdict == "RESCUE"
    assert board.nor.data[: 6 * SIZE] == b"\xff" * 6 * SIZE


def test_of_copies_that_nobody_remembers_the_oldest_is_given_up():
    """Programmed from outside each time, with an empty memory."""
    board = board_with(members=1)
    images = [A.image(forgery.image(i, "%d.0" % i)) for i in range(1, 6)]
    for content in images:
        board.nor.data[:] = content
        board.chip.data[:] = b"\xff" * len(board.chip.data)
        assert on(board).verdict == "RUN"
    for content in images[2:]:
        assert any(place(board).holds(slot, content) for slot in range(3))


# Counters


def confirmed(image=TWO, **names):
    """A board on which that build is confirmed, and its predecessor's copies are there, too."""
    board = board_with(ONE, **names)
    assert on(board).verdict == "RUN"
    install(board, image)
    assert on(board).verdict == "RUN"
    assert on(board).verdict == "RUN"
    return board


def test_the_counter_rises_with_the_build_that_runs_and_is_backed_up():
    board = board_with(TWO, members=0)
    assert on(board).data["counter"] == 0  # no backup
    board = confirmed()
    assert on(board).data["counter"] == 2


def test_older_code_does_not_run_again():
    board = confirmed()
    install(board, ONE)
    report = on(board)
    assert report.verdict == "RUN"
    assert parts(board.nor.data) == parts(TWO)
    for member in (0, 1):  # the attacker has kept all of the disks
        for slot in range(3):
            place(board, member).plant(slot, ONE, 99)
    wipe_flash(board)
    report = on(board)
    assert report.verdict == "RESCUE"
    assert board.nor.data[: 6 * SIZE] == b"\xff" * 6 * SIZE


def test_disks_from_before_do_not_lower_the_counter():
    board = board_with()
    on(board)
    kept = [dict(disk.sectors) for disk in board.drives]
    install(board, TWO)
    on(board)
    assert on(board).data["counter"] == 2
    for disk, sectors in zip(board.drives, kept):
        disk.sectors = sectors
    report = on(board)
    assert (report.verdict, report.data["counter"]) == ("RUN", 2)
    assert place(board).holds(1, TWO) or place(board).holds(0, TWO) or place(board).holds(2, TWO)


def test_a_boot_stage_has_a_floor_that_no_empty_memory_undercuts():
    board = board_with(ONE, MIN_COUNTER=2)
    report = on(board)
    assert (report.verdict, report.data["counter"]) == ("RESCUE", 2)
    assert "counter-low" in codes(report)


def test_the_last_counter_is_a_counter():
    board = confirmed(A.image(forgery.image(2, "2.0"), counter=0xFFFFFFFF))
    assert on(board).data["counter"] == 0xFFFFFFFF


class Fuses:
    """What a board's one-time-programmable memory keeps: it may be cut at any word."""

    def __init__(self, board, counter=0, digest=b""):
        self.board, self.value, self.burned = board, (counter, digest), 0
        board.fuses = lambda: self.value
        board.burn = self.burn

    def burn(self, counter, digest):
        assert counter >= self.value[0]
        self.burned += 1
        self.value = counter, digest


def test_fuses_outlive_an_erased_memory():
    board = board_with()
    fuses = Fuses(board)
    on(board)
    install(board, TWO)
    on(board)
    assert fuses.value == (2, b"")
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    install(board, ONE)
    report = on(board)
    assert parts(board.nor.data) == parts(TWO)
    assert report.data["counter"] == 2


def test_fuses_that_fail_stop_all():
    board = board_with()

    def fuses():
        raise OSError(5)

    board.fuses = fuses
    report = on(board)
    assert (report.verdict, codes(report)) == ("RESCUE", {"policy"})


def test_fuses_that_can_not_be_burned_are_told_and_the_code_runs():
    board = board_with()

    def burn(counter, digest):
        raise OSError(5)

    board.fuses, board.burn = (lambda: (0, b"")), burn
    report = on(board)
    assert report.verdict == "RUN"
    assert "fuses-failed" in codes(report)


# Rotation

SET2 = signer.key_set(2, (signer.ALL, A), (signer.ALL, B))
SET3 = signer.key_set(3, (signer.ALL, B))
WITH2 = A.image(forgery.image(2, "2.0"), keys=SET2)
WITH3 = B.image(forgery.image(3, "3.0"), keys=SET3)
OLD = A.image(forgery.image(1, "1.0"))


def rotated(fuses=None):
    board = board_with(OLD)
    if fuses:
        fuses(board)
    for image, serial in (OLD, 1), (WITH2, 2), (WITH3, 3):
        install(board, image)
        report = on(board)
        assert (report.verdict, report.data["keys"]) == ("RUN", serial)
    return board


def test_keys_rotate_with_builds_that_old_and_new_keys_stand_behind():
    board = rotated()
    events = [e[:1] + e[3:] for e in running.report.events if e[0] == "keys"]
    assert events == [("keys", 3, 1)]
    chip = bytes(board.chip.data)
    report = on(board)
    assert (report.verdict, codes(report)) == ("RUN", set())
    assert board.chip.data == chip


def test_a_revoked_key_stays_revoked():
    board = rotated()
    install(board, A.image(forgery.image(4, "4.0"), counter=7))
    report = on(board)
    assert parts(board.nor.data) == parts(WITH3)
    for member in (0, 1):
        for slot in range(3):
            place(board, member).plant(slot, OLD, 99)
    wipe_flash(board)
    report = on(board)
    assert report.verdict == "RESCUE"
    install(board, OLD)
    report = on(board)
    assert (report.verdict, report.data["keys"]) == ("RESCUE", 3)
    assert "key-revoked" in codes(report)


@pytest.mark.parametrize(
    "image",
    [
        # The signer may not bring keys; is not in the new set; has no role there.
        A.image(forgery.image(2, "2.0"), keys=SET3),
        A.image(forgery.image(2, "2.0"), keys=signer.key_set(2, (signer.UNLOCK, A), (1, B))),
    ],
)
def test_a_set_under_which_its_own_build_would_not_count_is_refused(image):
    board = board_with(image)
    report = on(board)
    assert (report.verdict, report.data["keys"]) == ("RUN", 1)
    assert "keys-refused" in codes(report)


def test_a_key_without_the_role_brings_no_keys():
    board = board_with(WITH2, KEYS=signer.key_set(1, (signer.CODE, A), (signer.KEYS, B)))
    report = on(board)
    assert (report.verdict, report.data["keys"]) == ("RUN", 1)
    assert "keys-refused" in codes(report)


@pytest.mark.parametrize(
    "keys", [b"", b"\2", SET2[:-1], signer.key_set(9), SET2[:4] + b"\5" + SET2[5:]]
)
def test_a_set_that_breaks_a_rule_is_none(keys):
    board = board_with(A.image(forgery.image(2, "2.0"), keys=keys))
    report = on(board)
    assert (report.verdict, report.data["keys"], codes(report)) == ("RUN", 1, set())


def test_the_new_keys_of_a_boot_stage_count_before_the_memory():
    board = rotated()
    board.KEYS = signer.key_set(4, (signer.ALL, A))
    report = on(board)
    assert (report.verdict, report.data["keys"]) == ("RUN", 4)
    assert parts(board.nor.data) == parts(WITH2)


def test_fused_keys_outlive_an_erased_memory():
    board = rotated(Fuses)
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    report = on(board)
    assert (report.verdict, report.data["keys"]) == ("RUN", 3)
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    install(board, OLD)
    report = on(board)
    assert parts(board.nor.data) == parts(WITH3)
    assert on(board).data["keys"] == 3


@pytest.mark.parametrize("fuses", [None, Fuses])
@pytest.mark.parametrize("torn", [False, True])
def test_power_may_fail_while_keys_and_counter_change(sweep, fuses, torn):
    """At every operation; afterwards the new code runs under the new keys, and nothing is lost."""
    image = A.image(forgery.image(2, "2.0"), keys=SET2, counter=5)
    for cut in sweep.cuts(range(1, 400)):
        board = board_with(OLD)
        sweep.shows(flash=board.nor, **{disk.name: disk for disk in board.drives})
        if fuses:
            fuses(board)
        on(board)
        install(board, image)
        board.supply(Power(cut, torn))
        try:
            on(board)
        except PowerCut:
            pass
        else:
            break
        for disk in board.drives:
            disk.settle("none", cut)
        board.supply(Power())
        report = on(board)
        assert (report.verdict, report.data["keys"], report.data["counter"]) == ("RUN", 2, 5)
        report = on(board)
        assert (report.verdict, codes(report)) == ("RUN", set())
        assert parts(board.nor.data) == parts(image)
    assert cut > 20 or not sweep.whole


# An attacker who writes the flash


def with_keys_of_a_stranger(board):
    """Who writes the flash writes the memory: a key set of his own, newer than any."""
    memory = Trust(board, CodeFlash(board.nor, SIZE)).recall().memory
    memory.add([(7, (signer.key_set(0xFFFFFFFE, (signer.ALL, EVIL)),))])
    install(board, EVIL.image(forgery.image(9, "6.6"), counter=9))


@pytest.mark.parametrize("kind", ["paranoid", "fuses", "both"])
def test_no_keys_come_out_of_the_memory_alone(kind):
    board = board_with(PARANOID=kind != "fuses")
    fuses = Fuses(board) if kind != "paranoid" else None
    on(board)
    with_keys_of_a_stranger(board)
    report = on(board)
    assert parts(board.nor.data) == parts(ONE)
    assert report.data["keys"] == 1 and "key-unknown" in codes(report)
    assert not fuses or fuses.value == (1, b"")


def test_a_paranoid_board_changes_its_keys_by_fuses_only():
    board = board_with(OLD, PARANOID=True)
    on(board)
    install(board, WITH2)
    report = on(board)
    assert (report.verdict, report.data["keys"]) == ("RUN", 1)
    assert "keys-refused" in codes(report)
    board = board_with(OLD, PARANOID=True)
    Fuses(board)
    on(board)
    install(board, WITH2)
    assert on(board).data["keys"] == 2
    assert on(board).data["keys"] == 2


def test_fuses_that_can_only_be_read_change_nothing():
    board = board_with(WITH2)
    board.fuses = lambda: (0, hashlib.sha256(SET).digest())
    for _ in range(2):
        report = on(board)
        assert (report.verdict, report.data["keys"]) == ("RUN", 1)
        assert "keys-refused" in codes(report)
    chip = bytes(board.chip.data)
    on(board)
    assert board.chip.data == chip


@pytest.mark.parametrize("change", [{8: b"\2"}, {96: b"\1"}], ids=["major", "incompat"])
def test_a_manifest_of_a_newer_format_does_not_stop_the_board(change):
    board = board_with()
    on(board)
    _, raw = parts(ONE)
    raw = bytearray(raw)
    for at, value in change.items():
        raw[at : at + 1] = value
    raw[-4:] = struct.pack("<I", sim.crc32(raw[:-4]))
    board.nor.data[-SIZE:] = forgery.pad(bytes(raw), SIZE, b"\xff")
    report = on(board)
    assert report.verdict == "RUN" and parts(board.nor.data) == parts(ONE)
    assert "signature-bad" in codes(report)


def test_a_memory_that_can_not_be_read_is_no_reason_to_erase_code():
    board = rotated()
    good = bytes(board.nor.data)
    read = board.chip.readblocks

    def fails(*args):
        raise OSError(110)

    board.chip.readblocks = fails
    report = on(board)
    assert report.verdict == "RESCUE" and "policy" in codes(report)
    assert board.nor.data == good
    board.chip.readblocks = read
    assert on(board).verdict == "RUN"


def test_only_a_whole_backup_lets_counter_and_keys_change():
    """A copy whose records are right, and whose blocks are not."""
    image = A.image(forgery.image(2, "2.0"), keys=SET2, counter=5)
    board = board_with(OLD, members=1)
    on(board)
    install(board, image)
    place(board).plant(1, image, 9, code=bytes(6 * SIZE))
    report = on(board)
    assert (report.data["keys"], report.data["counter"]) == (1, 0)
    assert report.data["members"][0]["state"] == "level"
    place(board).plant(1, image, 9)
    report = on(board)
    assert (report.data["keys"], report.data["counter"]) == (2, 5)


def test_a_dead_flash_does_not_hide_who_rules():
    board = board_with(LOCKED=True)

    def flash():
        raise OSError(5)

    board.flash = flash
    report = on(board)
    assert report.verdict == "RESCUE"
    assert (report.data["trust"], report.data["console"]) == ("signed", "locked")


def test_keys_without_the_code_that_looks_at_them_let_nothing_run(monkeypatch):
    monkeypatch.setattr(trust_module, "Owner", None)
    for unsigned in (True, False):
        report = on(board_with(UNSIGNED=unsigned))
        assert report.verdict == "RESCUE"


def forged_block(board):
    good = bytes(board.nor.data[SIZE : 2 * SIZE])
    board.nor.data[SIZE : 2 * SIZE] = same_crc(good)
    return good


def test_a_block_with_the_right_crc_passes_the_default():
    board = board_with()
    on(board)
    forged_block(board)
    assert (on(board).verdict, on(board).data["trust"]) == ("RUN", "signed")


def test_a_block_with_the_right_crc_does_not_pass_paranoid():
    board = board_with(PARANOID=True)
    on(board)
    forged_block(board)
    report = on(board)
    assert (report.verdict, report.data["bad"]) == ("RUN", [[1, 1]])
    assert board.nor.data == ONE and report.data["trust"] == "paranoid"


def test_the_scrubber_finds_it():
    board = board_with()
    on(board)
    good = forged_block(board)
    assert on(board).verdict == "RUN"
    scrubber = Scrubber(board, start=0)
    for _ in range(400):
        scrubber.step(1)
    assert board.nor.data[SIZE : 2 * SIZE] == good


@pytest.mark.parametrize("damaged", [False, True])
def test_no_records_whatever_make_many_signatures_be_verified(monkeypatch, damaged):
    """One for the flash and one for each slot (docs/operations.md, Bounds)."""
    board = board_with()
    on(board)
    for member in (0, 1):
        for slot in range(3):
            content = forgery.image(10 + 3 * member + slot, "6.6")
            _, raw = parts(content)
            raw = signer.signed(raw, EVIL.sign, A.id, counter=9)
            place(board, member).plant(slot, content[:-SIZE] + raw.ljust(SIZE, b"\xff"), 9 + slot)
    calls = []

    def counted(*args):
        calls.append(1)
        return verify(*args)

    monkeypatch.setattr(owner, "verify", counted)
    if damaged:
        wipe_flash(board)
    report = on(board)
    assert report.runs != damaged
    assert len(calls) <= 1 + 6
    if not damaged:
        del calls[:]
        on(board)
        assert len(calls) <= 1 + 2


def test_the_ids_are_sums_of_the_keys():
    assert A.id == hashlib.sha256(A.public).digest()[:8]
