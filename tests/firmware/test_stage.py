"""A new build goes onto the disks while the old one runs: from any source, resumed (I2)."""

import asyncio
from errno import EIO

import pytest

import lifeboat
from fakes import board as sim
from fakes import forgery, scenarios, updates
from fakes.updates import NEW, OLD, block_of, manifest_of
from lifeboat import running, stage, trial, update
from lifeboat.errors import LifeboatError
from lifeboat.scrub import Scrubber
from sim.power import Power, PowerCut

BLOCKS = range(6)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(running, "attended", False)
    monkeypatch.setattr(trial, "staging", False)
    yield
    running.attended = False


@pytest.fixture
def board():
    return updates.running_old()


def code_of(call, *args, **kwargs):
    with pytest.raises(LifeboatError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def begun(board, image=NEW, **kwargs):
    staged = stage.Stage(board, manifest_of(image), **kwargs)
    for _ in staged.gather():
        pass
    return staged


def candidate(disk, slot=1, slots=2):
    """What stands in a slot, by format.md alone: (magic, manifest, blocks of code)."""
    at = scenarios.slot_of(disk, slot, slots)
    raw = manifest_of(NEW)
    code = sim.get(disk, at + 69632, 6 * sim.ERASE)
    return sim.get(disk, at, 512)[:8], sim.get(disk, at + 4096, 4096)[: len(raw)], code


WHOLE = b"LBCANDID", manifest_of(NEW), bytes(NEW[: 6 * sim.ERASE])


# Where it comes from


def test_blocks_in_any_order_make_a_candidate(board):
    staged = begun(board)
    for block in (5, 0, 3, 1, 4, 2):
        assert block in staged.needed
        staged.put(block, block_of(NEW, block))
    assert staged.needed == [] and staged.commit() == ["disk0", "disk1"]
    assert [candidate(disk) for disk in board.drives] == [WHOLE] * 2
    record = sim.get(board.drives[0], scenarios.slot_of(board.drives[0], 1), 512)
    assert record == forgery.sealed(record)  # its CRC is right
    assert bytes(board.nor.data) == bytes(OLD)


def test_a_file_on_the_user_area(board, tmp_path, capsys):
    path = tmp_path / "new.img"
    path.write_bytes(NEW)
    stage.from_image(board, str(path))
    assert "2.0 is on disk0, disk1" in capsys.readouterr().out
    assert lifeboat.power_on(board).data["version"] == "2.0"


def test_a_stream_of_the_application(board):
    """Over a real socket, in tasks: what the server sends is what is still needed."""

    async def serve(reader, writer):
        size = int.from_bytes(await reader.readexactly(2), "little")
        for block in await reader.readexactly(size):
            writer.write(block_of(NEW, block))
        await writer.drain()
        writer.close()

    async def update():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        staged = stage.Stage(board, manifest_of(NEW))
        for _ in staged.gather():
            await asyncio.sleep(0)
        needed = staged.needed
        writer.write(len(needed).to_bytes(2, "little") + bytes(needed))
        for block in needed:
            staged.put(block, await reader.readexactly(sim.ERASE))
            await asyncio.sleep(0)
        staged.commit()
        staged.arm()
        writer.close()
        server.close()

    asyncio.run(update())
    assert lifeboat.power_on(board).data["version"] == "2.0"


def shares(count):
    """An image that shares so many blocks with the old one."""
    code = bytes(OLD[: count * sim.ERASE] + NEW[count * sim.ERASE : 6 * sim.ERASE])
    raw = sim.manifest(code, version="2.0")
    image = bytearray(NEW)
    image[: len(code)] = code
    image[scenarios.MANIFEST_AT :] = raw + b"\xff" * (sim.ERASE - len(raw))
    return image


def test_what_is_in_flash_need_not_be_sent(board):
    staged = begun(board, shares(4))
    assert staged.needed == [4, 5]


def test_nor_what_an_older_copy_has():
    board = updates.running_old(slots=3)
    board.nor.data[:] = NEW
    lifeboat.power_on(board)
    update.rollback(board, "1.0")
    lifeboat.power_on(board)
    running.attended = False
    third = bytearray(sim.image(seed=3, version="3.0"))
    code = bytes(NEW[: 3 * sim.ERASE] + third[3 * sim.ERASE : 6 * sim.ERASE])
    raw = sim.manifest(code, version="3.0")
    third[: len(code)] = code
    third[scenarios.MANIFEST_AT :] = raw + b"\xff" * (sim.ERASE - len(raw))
    assert begun(board, third).needed == [3, 4, 5]


def test_a_block_that_rotted_in_flash_is_asked_for(board):
    board.nor.data[sim.ERASE] ^= 1
    assert begun(board, shares(4)).needed == [1, 4, 5]


# Resuming


def test_it_goes_on_where_it_was(board):
    staged = begun(board)
    for block in (0, 3):
        staged.put(block, block_of(NEW, block))
    del staged
    assert begun(board).needed == [1, 2, 4, 5]


def test_who_does_not_look_what_is_there_sends_all_again(board):
    begun(board).put(0, block_of(NEW, 0))
    staged = stage.Stage(board, manifest_of(NEW))
    assert staged.needed == list(BLOCKS)
    for block in BLOCKS:
        staged.put(block, block_of(NEW, block))
    assert staged.commit() == ["disk0", "disk1"]
    assert [candidate(disk) for disk in board.drives] == [WHOLE] * 2


def test_what_one_disk_has_another_one_gets(board):
    away = board.drives.pop()
    updates.stage_new(board, arm=False)
    board.drives.append(away)
    staged = begun(board)
    assert staged.needed == []
    assert staged.commit() == ["disk0", "disk1"] and candidate(away) == WHOLE


def test_another_build_takes_the_slot_anew(board):
    updates.stage_new(board, arm=False)
    third = sim.image(seed=3, version="3.0")
    staged = begun(board, third)
    assert staged.needed == list(BLOCKS)
    assert [scenarios.whole_copies(disk) for disk in board.drives] == [["1.0"]] * 2


# I2: what it gives up, and what it does not


def updated():
    """Runs 2.0; both slots of both disks are taken: 1.0 and 2.0."""
    board = updates.running_old()
    forgery.install(board, NEW)
    assert lifeboat.power_on(board).verdict == "RUN"
    board.supply(Power())
    return board


THIRD = sim.image(seed=3, version="3.0")


def test_the_oldest_copy_makes_room():
    board = updated()
    updates.stage_new(board, THIRD)
    assert [scenarios.whole_copies(disk) for disk in board.drives] == [["2.0"]] * 2


def test_the_copy_that_stays_is_mended_before_another_one_goes():
    board = updated()
    disk = board.drives[0]
    sim.put(disk, scenarios.slot_of(disk, 1) + 69632 + 2 * sim.ERASE, b"rot!" * 128)
    board.supply(Power())
    updates.stage_new(board, THIRD, arm=False)
    assert [scenarios.whole_copies(disk) for disk in board.drives] == [["2.0"]] * 2
    first = next(at for device, op, at in board.power.log if device == "disk0" and op == "write")
    assert first == (scenarios.slot_of(disk, 1) + 69632 + 2 * sim.ERASE) // 512


def test_a_disk_without_the_running_build_gives_nothing_up():
    board = updated()
    disk = board.drives[0]
    at = scenarios.slot_of(disk, 1)
    older = sim.get(disk, scenarios.slot_of(disk, 0), sim.SLOT)
    record = bytearray(older[:512])
    record[12:16] = b"\1\0\0\0"
    sim.put(disk, at, forgery.sealed(record) + older[512:])  # two copies of 1.0
    staged = begun(board, THIRD)
    assert staged.names == ["disk1"]
    assert "backup-none" in [reason[0] for reason in staged.report.data["reasons"]]
    assert scenarios.whole_copies(disk) == ["1.0", "1.0"]


@pytest.mark.parametrize("keep", ["none", "all", "random"])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_every_cut_leaves_the_running_build_a_copy_on_each_disk(sweep, torn, keep):
    whole = updated()
    updates.stage_new(whole, THIRD)
    trial.staging = False
    for cut in sweep.cuts(range(1, whole.power.count + 1)):
        board = updated()
        board.supply(Power(cut, torn))
        sweep.shows(flash=board.nor, disk0=board.drives[0], disk1=board.drives[1])
        with pytest.raises(PowerCut):
            updates.stage_new(board, THIRD)
        trial.staging, running.disk_calls = False, 0
        for disk in board.drives:
            disk.settle(keep, cut)
        assert all("2.0" in scenarios.whole_copies(disk) for disk in board.drives), cut
        board.supply(Power())
        report = lifeboat.power_on(board)
        assert report.verdict == "RUN", cut
        if report.data["version"] == "2.0":
            updates.stage_new(board, THIRD)
            assert lifeboat.power_on(board).data["version"] == "3.0", cut


# What it refuses, and then nothing is written


def test_other_bytes_are_refused(board):
    staged = begun(board)
    board.supply(Power())
    assert code_of(staged.put, 0, block_of(OLD, 0)) == "digest-wrong"
    assert code_of(staged.put, 0, b"short") == "digest-wrong"
    assert code_of(staged.put, 6, block_of(NEW, 0)) == "digest-wrong"
    assert code_of(staged.put, -1, block_of(NEW, 5)) == "digest-wrong"
    assert board.power.log == []


def test_half_of_it_is_no_candidate(board):
    staged = begun(board)
    staged.put(0, block_of(NEW, 0))
    assert code_of(staged.commit) == "stage-blocks"
    assert candidate(board.drives[0])[0] != b"LBCANDID"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"nonsense", "manifest-magic"),
        (b"", "manifest-magic"),
        (manifest_of(NEW)[:-1], "manifest-size"),
        (manifest_of(OLD), "stage-same"),
        (sim.manifest(bytes(24576), product="other"), "manifest-product"),
        (sim.manifest(bytes(9 * 4096)), "manifest-board"),
    ],
    ids=lambda value: value if isinstance(value, str) else "raw",
)
def test_what_is_not_for_this_board_is_refused(board, raw, code):
    board.supply(Power())
    assert code_of(stage.Stage, board, raw) == code
    assert board.power.log == []


@pytest.mark.parametrize("remembers", ["nothing", None])
def test_without_a_memory_there_is_no_trial(remembers):
    board = sim.SimBoard(bytearray(OLD), remembers=remembers)
    if remembers:
        board.drives = []  # nothing to learn
    lifeboat.power_on(board)
    assert code_of(stage.Stage, board, manifest_of(NEW)) == "memory-none"


def test_nothing_is_staged_during_a_trial(board):
    updates.stage_new(board)
    assert code_of(stage.Stage, board, manifest_of(THIRD)) == "trial-open"
    lifeboat.power_on(board)
    assert code_of(stage.Stage, board, manifest_of(THIRD)) == "trial-open"
    assert code_of(update.rollback, board, "1.0") == "trial-open"


def test_a_board_without_disks_has_no_room(board):
    board.drives = []
    assert code_of(stage.Stage, board, manifest_of(NEW)) == "stage-room"


def test_a_board_without_a_policy_takes_nothing(board):
    board.UNSIGNED = False
    assert code_of(stage.Stage, board, manifest_of(NEW)) == "policy"


# Trouble on the way


@pytest.mark.parametrize("at", range(0, 80, 3))
def test_a_disk_that_dies_is_left_out(board, at):
    updates.dies_after(board.drives[1], at)
    staged = updates.stage_new(board)
    assert "disk0" in staged.names
    assert lifeboat.power_on(board).data["version"] == "2.0"


def test_a_disk_that_forgets_what_it_was_given_is_left_out(board):
    first = scenarios.slot_of(board.drives[0], 1) // 512
    board.drives[0].lose = range(first + 136, first + 144)
    staged = updates.stage_new(board)
    assert staged.names == ["disk1"]
    assert "disk-lies" in [reason[0] for reason in staged.report.data["reasons"]]


def test_no_disk_is_left(board):
    staged = begun(board)
    for disk in board.drives:
        disk.fault = lambda op, lba, count: EIO
    assert code_of(staged.put, 0, block_of(NEW, 0)) == "stage-room"


# Beside the scrubber


def test_the_scrubber_goes_on_and_leaves_the_slot_alone(board):
    scrubber = Scrubber(board)
    staged = stage.Stage(board, manifest_of(NEW))
    for _ in staged.gather():
        assert scrubber.step(1)
    for block in staged.needed:
        staged.put(block, block_of(NEW, block))
        assert scrubber.step(5)
    staged.commit()
    for _ in range(40):
        scrubber.step(5)
    staged.arm()
    for _ in range(40):
        scrubber.step(5)
    assert [candidate(disk) for disk in board.drives] == [WHOLE] * 2
    assert scrubber.passes > 0
    assert lifeboat.power_on(board).data["version"] == "2.0"


def test_what_the_scrubber_wrote_into_the_memory_meanwhile_is_kept(board):
    staged = begun(board)
    for block in staged.needed:
        staged.put(block, block_of(NEW, block))
    updates.memory_of(board).count_failure(3, 2)  # as a repair that failed does
    staged.commit()
    staged.arm()
    assert updates.memory_of(board).failed == {3: 2}
    assert updates.trying(board).open


def test_one_block_of_memory_is_all_it_takes(board):
    """It keeps no data between blocks: what it holds does not grow with the build."""
    staged = begun(board)
    sizes = [
        len(value)
        for owner in (staged, staged._scratch)
        for value in vars(owner).values()
        if isinstance(value, (bytes, bytearray, memoryview))
    ]
    assert sum(sizes) <= 2 * sim.ERASE


# Candidates by hand


def test_a_person_accepts_what_a_disk_offers(board, capsys):
    updates.stage_new(board, arm=False)
    update.accept(board)
    assert "2.0 " in capsys.readouterr().out
    update.accept(board, "2.0")
    running.attended = False
    assert lifeboat.power_on(board).data["version"] == "2.0"


def test_one_that_has_rotten_is_not_accepted(board):
    updates.stage_new(board, arm=False)
    for disk in board.drives:
        sim.put(disk, scenarios.slot_of(disk, 1) + 69632, b"rot!" * 128)
    assert code_of(update.accept, board, "2.0") == "block-lost"
    assert not updates.trying(board).open


def test_one_that_is_not_there_is_not_accepted(board):
    assert code_of(update.accept, board, "2.0") == "build-none"


@pytest.mark.parametrize("what", ["manifest", "record", "region", "slot"])
def test_hostile_records_are_no_candidates(board, what):
    updates.stage_new(board, arm=False)
    for disk in board.drives:
        at = scenarios.slot_of(disk, 1)
        record = bytearray(sim.get(disk, at, 512))
        if what == "manifest":
            sim.put(disk, at + 4096, b"\xff" * 512)
        elif what == "record":
            record[68:72] = b"\xff\xff\xff\xff"
            sim.put(disk, at, forgery.sealed(record))
        elif what == "region":
            record[16] ^= 1
            sim.put(disk, at, forgery.sealed(record))
        else:
            record[12] = 0
            sim.put(disk, at, forgery.sealed(record))
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and scenarios.codes(report) == []
    assert code_of(update.accept, board, "2.0") == "build-none"
