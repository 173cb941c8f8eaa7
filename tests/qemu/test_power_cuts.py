"""I4 on real device models: the board is killed at the n-th write of disks and flash.

Disks and flash are served by a lab that counts their writes, erases and flushes, kills QEMU at the
n-th one, whole or half-way, and then forgets what the disks had in their caches. Every number
must have been reached. A Pico is cut ten times, by its emulator. A cut that was not
survived says how to do it again.
"""

import json
import os
import random
import shutil
from typing import NamedTuple

import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.qemu import faulty_media
from qemu.rig import MB

# For each of the two tests. A campaign: LIFEBOAT_CUTS=300 ./lifeboat test --slow -k power_cuts; on
# the emulated Pico that takes two hours, with -m pico.
CAMPAIGN = os.environ.get("LIFEBOAT_CAMPAIGN") == "boards"
CUTS = int(os.environ.get("LIFEBOAT_CUTS", "200" if CAMPAIGN else "5"))
PICO_CUTS = int(os.environ.get("LIFEBOAT_CUTS", "5"))
# Of the cuts after which the next power-on is cut as well: how many in a test, how many in a row.
CHAINED = {"qemu_virt": 50, "qemu_sifive_u": 20}
OTHERS = 10
DEEP = 4
KEEP = ["none", "all", "last", "random"]


def power_on(rig, cut_at=None, torn=0, then=None):
    """A power-on, all media in a lab. Returns (report or None, operations, the cut one).

    then: what is run at the REPL after it.
    """
    if rig.small:
        return power_on_pico(rig, cut_at, torn, then)
    with faulty_media.Lab(cut_at=cut_at, torn=torn, on_cut=lambda: board.kill()) as lab:
        flash = lab.export("flash", faulty_media.FileStore(rig.flash), volatile=False)
        drives = [lab.export(p.stem, faulty_media.FileStore(p)) for p in rig.drives]
        board = rig.board(drives, flash)
        try:
            with board:
                report = board.power_on_report()
                if then:
                    board.repl(interrupt=True)
                    out, error = board.run(then, 300)
                    assert not error, out + error
        except LifeboatError as error:
            assert error.code == "board-ended", error
            report = None
        finally:
            board.close()
        if cut_at:
            lab.settle(KEEP[cut_at % 4], seed=cut_at)
        return report, lab.count, lab.cut_op


def power_on_pico(rig, cut_at, torn, then):
    """The same by the emulator, which counts operations itself: its card has no cache."""
    with rig.board(cut_at=cut_at or 0, torn=bool(torn)) as board:
        try:
            report = board.power_on_report()
            if then:
                board.repl(interrupt=True)
                out, error = board.run(then, 600)
                assert not error, out + error
        except LifeboatError as error:
            assert error.code == "board-ended", error
            board.wait()
            assert board.was_cut, board.stderr
            report = None
        assert board.complaints() == []
        done = board.operations()
    device, name, _ = done[-1].split()
    return report, len(done), Cut(len(done), {"card": "disk"}.get(device, device), name)


def again_and_again(rig, prepare, check, step, then):
    """Cut a power-on, then the one that goes on from there, and so on: a power-on takes long here.

    step: operations until each cut. What is left is more than that each time.
    """
    prepare(rig)
    kinds = set()
    rng = random.Random(step)
    for _ in range(PICO_CUTS):
        n = rng.randint(1, step)
        report, count, op = power_on(rig, cut_at=n, torn=rng.choice((0, 1)), then=then)
        assert report is None and count == n, f"cut {n} was not reached"
        kinds.add((op.export, op.name))
    check(rig, n)
    return kinds


def cuts_upon_cuts(sweep, rig, tmp_path, prepare, check, then=None):
    """Cut a power-on at any operation, the next one, too, and so on, up to DEEP times; check what
    the one that is left alone makes of it. Returns how many cuts there were, each of them reached.
    """
    usual = 200 if CAMPAIGN else CHAINED.get(board_of(sweep), OTHERS)
    wanted = int(os.environ.get("LIFEBOAT_CUTS", usual))
    scratch = tmp_path / "whole"
    scratch.mkdir()
    whole = rig.copy_to(scratch)
    prepare(whole)
    report, operations, _ = power_on(whole, then=then)
    assert report["verdict"] == "RUN"
    rng = random.Random(operations)
    done = chains = 0
    while done < wanted and chains < wanted:
        chains += 1
        seed = rng.random()
        for _ in sweep.cuts([chains]):
            lot = random.Random(seed)
            scratch = tmp_path / f"chain{chains}"
            scratch.mkdir()
            victim = rig.copy_to(scratch)
            prepare(victim)
            sweep.shows(flash=victim.flash, **{path.stem: path for path in victim.drives})
            left = operations
            for _ in range(DEEP):
                n = lot.randint(1, left)
                torn = lot.choice((0, 700, 2048))
                report, count, op = power_on(victim, cut_at=n, torn=torn, then=then)
                if report:  # less was left to do
                    break
                assert count == n and op.number == n
                done += 1
                left = max(2, left - n // 2)
            check(victim, chains)
            shutil.rmtree(scratch)
    assert done >= wanted or not sweep.whole
    sweep.node.user_properties.append(("board_cuts", json.dumps([done])))
    return done


def board_of(sweep):
    """The name of the board that a sweep's test runs on."""
    return sweep.node.callspec.params["spec"]


class Cut(NamedTuple):
    number: int
    export: str
    name: str


def cut_all(sweep, rig, tmp_path, prepare, check, then=None):
    """Cut a power-on, and what is run `then`, at CUTS places spread over all operations; check
    what follows.
    """
    scratch = tmp_path / "whole"
    scratch.mkdir()
    whole = rig.copy_to(scratch)
    prepare(whole)
    report, operations, _ = power_on(whole, then=then)
    assert report["verdict"] == "RUN" and operations >= CUTS
    if rig.small:
        step = max(1, operations // (PICO_CUTS + 1))
        return again_and_again(rig, prepare, check, step, then)
    rng = random.Random(operations)
    places = sorted(rng.sample(range(1, operations + 1), CUTS - 2) + [1, operations])
    kinds = set()
    tears = {n: rng.choice((0, 700, 2048)) for n in places}
    for n in sweep.cuts(places):
        scratch = tmp_path / f"cut{n}"
        scratch.mkdir(exist_ok=True)
        victim = rig.copy_to(scratch)
        prepare(victim)
        sweep.shows(flash=victim.flash, **{path.stem: path for path in victim.drives})
        report, count, op = power_on(victim, cut_at=n, torn=tears[n], then=then)
        assert report is None and count == n and op.number == n, f"cut {n} was not reached"
        kinds.add((op.export.rstrip("01"), op.name))
        check(victim, n)
        for path in [victim.flash, *victim.drives]:
            path.unlink(missing_ok=True)
    assert len(places) == CUTS
    sweep.node.user_properties.append(("board_cuts", json.dumps([len(places)])))
    return kinds


@pytest.fixture
def small(empty_rig):
    """Two megabytes of code, a backup of version 1.0 on two disks."""
    empty_rig.make_image(2 * MB)
    empty_rig.add_disks()
    report, _ = empty_rig.power_on()
    assert report["verdict"] == "RUN"
    return empty_rig


def test_creating_is_cut(sweep, small, tmp_path):
    def prepare(rig):
        rig.make_image(2 * MB, version="2.0", seed=2)

    def check(rig, n):
        for drive in rig.drives:
            held = rig.copies(drive)
            assert [] in held.values(), f"cut {n}: no whole copy on {drive.name}: {held}"
        report = rig.heal()
        assert {m["state"] for m in report["members"]} <= {"level", "created"}
        assert all(rig.copies(d)["2.0"] == [] for d in rig.drives)

    kinds = cut_all(sweep, small, tmp_path, prepare, check)
    if not sweep.whole:
        return
    assert ("disk", "write") in kinds
    # QEMU's SD card hands no flush on: each of its writes is on the medium when it has ended.
    assert ("disk", "flush") in kinds or small.spec.disk_kind == "sd"


def test_recovering_is_cut(sweep, small, tmp_path):
    def prepare(rig):
        rig.damage((0, b"\xff" * rig.spec.flash_size))

    def check(rig, n):
        rig.heal()
        assert all(rig.copies(d) == {"1.0": []} for d in rig.drives)

    kinds = cut_all(sweep, small, tmp_path, prepare, check)
    assert kinds & {("flash", "write"), ("flash", "program")} or not sweep.whole


@pytest.mark.parametrize("what", ["creating", "recovering"])
def test_cuts_upon_cuts(sweep, small, tmp_path, what):
    def prepare(rig):
        if what == "creating":
            rig.make_image(2 * MB, version="2.0", seed=2)
        else:
            rig.damage((0, b"\xff" * rig.spec.flash_size))

    def check(rig, chain):
        report = rig.heal()
        version = "2.0" if what == "creating" else "1.0"
        for drive in rig.drives:
            assert rig.copies(drive)[version] == [], (chain, report)

    cuts_upon_cuts(sweep, small, tmp_path, prepare, check)


@pytest.mark.slow
def test_going_back_is_cut(sweep, small, tmp_path):
    """A person goes back to the build before; after a cut it is one of both, with both copies."""
    old = bytes(small.good)
    small.make_image(2 * MB, version="2.0", seed=2)
    report, _ = small.power_on()
    assert report["verdict"] == "RUN" and report["version"] == "2.0"
    new = bytes(small.good)
    ends = set()

    def check(rig, n):
        report, _ = rig.power_on()
        assert report["verdict"] == "RUN", (n, report)
        assert rig.content() == {"1.0": old, "2.0": new}[report["version"]], n
        assert all(rig.copies(drive) == {"1.0": [], "2.0": []} for drive in rig.drives), n
        ends.add(report["version"])

    back = "import board; from lifeboat import update; update.rollback(board, '1.0')"
    kinds = cut_all(sweep, small, tmp_path, lambda rig: None, check, back)
    assert ("flash", "write") in kinds or ("flash", "program") in kinds or not sweep.whole
    assert "2.0" in ends or not sweep.whole
