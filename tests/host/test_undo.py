"""Taking a region back: byte-identical, at any power cut, and never over what came later."""

import errno
import hashlib
import io
import json
import os
import random
import sys
from contextlib import contextmanager

import layouts_raw as raw
import pytest
from layouts import blank, put, run

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.board import board_disk
from lifeboat_host.disk import gpt
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.reserve import disk_map, give_back, recovery_file
from lifeboat_host.reserve.place import AUTO, carry_out, choose

SIZE = 8 << 20
REGION = 2 << 20
NUMBERS = ["--size", str(REGION)]
PARTITIONS = [(raw.LINUX, 2048, 4095)]


def empty(path):
    blank(path, SIZE)


def with_gpt(path):
    blank(path, SIZE)
    put(path, raw.gpt(SIZE, PARTITIONS, note=b"kept"))


def dirty_tail(path):
    blank(path, SIZE)
    rng = random.Random(1)
    put(path, [(SIZE - 600000, rng.randbytes(90000)), (SIZE - 4096, rng.randbytes(4096))])


def dirty_gpt(path):
    with_gpt(path)
    put(path, [(5 << 20, random.Random(2).randbytes(3 << 20)[: -(40 << 10)])])


def own_partition(path):
    blank(path, SIZE)
    put(path, raw.gpt(SIZE, [*PARTITIONS, (raw.LIFEBOAT, 8192, 8192 + REGION // 512 - 1)]))


# (how the disk is made, where the region goes)
CASES = {
    "tail": (empty, AUTO),
    "tail, garbage there": (dirty_tail, AUTO),
    "LBA": (empty, 4096),
    "new partition": (with_gpt, AUTO),
    "new partition, garbage there": (dirty_gpt, AUTO),
    "new GPT": (empty, region.GPT),
    "own partition": (own_partition, AUTO),
}


class PowerCut(Exception):
    pass


class Cut(Disk):
    """Power fails at write number `at`: before it, or when half of it is on the medium."""

    def arm(self, at, torn):
        self.left, self.torn, self.cut = at, torn, False

    def write(self, offset, data):
        self.left -= 1
        if self.left < 0:
            if self.torn:
                super().write(offset, data[: len(data) // 2 + 7])
            self.cut = True
            raise PowerCut
        super().write(offset, data)


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """(path of the disk, where, its content)."""
    make, where = CASES[request.param]
    path = tmp_path / "disk.img"
    make(path)
    return path, where, path.read_bytes()


def prepare(path, where):
    """The place, header and recovery file of a reservation; writes nothing on the disk."""
    with Disk(path) as disk:
        place = choose(disk, disk_map.look(disk), where, REGION)
        at = [(place.first, place.sectors)]
        (header,) = region.new_headers([disk], at, slots=2, need=1 << 17)
        file = path.with_name(f"undo-{header.region_id.hex()}.json")
        recovery_file.save(recovery_file.take(disk, place, header), file)
    return place, header, file


def create(path, where):
    place, header, file = prepare(path, where)
    with Disk(path, write=True) as disk:
        carry_out(disk, place, header)
    return header, file


def take_back(path, file, disk_class=Disk, arm=()):
    saved = recovery_file.load(file)
    with disk_class(path, write=True) as disk:
        if arm:
            disk.arm(*arm)
        found = disk_map.look(disk, [saved.start // disk.lba_size])
        give_back.restore(disk, saved, give_back.assess(disk, found, saved))


def fill(path, header, seed=5):
    """Backups all over the slots, a journal; the headers stay."""
    size = header.end - header.start - 3 * 4096
    put(path, [(header.start + 4096, random.Random(seed).randbytes(size))])


# --- byte-identical


def test_everything_is_as_it_was_after_the_board_filled_the_region(case):
    path, where, before = case
    header, file = create(path, where)
    fill(path, header)
    take_back(path, file)
    assert path.read_bytes() == before
    take_back(path, file)  # nothing is left to do, and nothing is harmed
    assert path.read_bytes() == before


def test_the_commands_do_the_same(tmp_path, case, lifeboat, monkeypatch):
    path, where, before = case
    monkeypatch.chdir(tmp_path)
    way = {AUTO: [], region.GPT: ["--gpt"]}.get(where, ["--lba", where])
    told = json.loads(lifeboat("region", "plan", path, *NUMBERS, *way, "--json")[1])["disks"][0]
    overwrite = told["proposal"]["overwrites"]
    consent = ["--overwrite", "{}-{}".format(*overwrite)] if overwrite else []
    code, out, err = lifeboat(
        "region", "create", path, *NUMBERS, *way, "--yes", "--json", *consent
    )
    assert (code, err) == (0, "")
    created = json.loads(out)["created"][0]
    assert (created["start_lba"], created["disk"]) == (told["proposal"]["first"], str(path))
    remove = ["region", "remove", path, "--undo", created["undo"], "--json"]
    code, out, _ = lifeboat(*remove)
    assert (code, json.loads(out)["error"]["code"]) == (1, "consent")
    code, out, _ = lifeboat(*remove, "--yes")
    assert (code, json.loads(out)["removed"][0]["first"]) == (0, created["start_lba"])
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(before).digest()


# --- power cuts


@pytest.mark.parametrize("torn", [False, True])
def test_creation_cut_at_any_write_can_be_undone(case, torn):
    path, where, before = case
    place, header, file = prepare(path, where)
    # Slots, journal, the beginnings of three extents, headers, table.
    total = 2 + 32 + 6 + 3 + sum(len(step) for step in place.table)
    for at in [*range(4), 17, *range(32, total + 1)]:  # the journal's units are all alike
        path.write_bytes(before)
        with Cut(path, write=True) as disk:
            disk.arm(at, torn)
            try:
                carry_out(disk, place, header)
            except PowerCut:
                pass
            assert disk.cut == (at < total)
        take_back(path, file)
        assert path.read_bytes() == before, f"cut at write {at}"


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("make", [with_gpt, dirty_gpt])
def test_other_systems_read_a_whole_table_at_every_cut(tmp_path, make, torn):
    path = tmp_path / "disk.img"
    make(path)
    before = path.read_bytes()
    old = partitions(path)
    place, _, _ = prepare(path, AUTO)
    seen = set()
    for at in range(sum(len(step) for step in place.table) + 1):
        path.write_bytes(before)
        with Cut(path, write=True) as disk:
            disk.allow([(0, SIZE)])
            disk.arm(at, torn)
            try:
                gpt.write(disk, place.table)
            except PowerCut:
                pass
        now = partitions(path)
        assert now[: len(old)] == old
        assert [part["start"] for part in now[len(old) :]] in ([], [place.first])
        seen.add(len(now))
    assert seen == {len(old), len(old) + 1}


def partitions(path):
    return json.loads(run("sfdisk", "--json", path))["partitiontable"]["partitions"]


@pytest.mark.parametrize("torn", [False, True])
def test_removal_cut_at_any_write_can_be_done_again(case, torn):
    path, where, before = case
    header, file = create(path, where)
    fill(path, header)
    full = path.read_bytes()
    cuts = 0
    while True:
        path.write_bytes(full)
        try:
            take_back(path, file, Cut, (cuts, torn))
        except PowerCut:
            take_back(path, file)
            assert path.read_bytes() == before, f"cut at write {cuts}"
            cuts += 1
            continue
        break
    assert path.read_bytes() == before
    assert cuts >= 4


# --- what came later is not harmed


def test_when_the_table_was_changed_since_only_our_partition_goes(tmp_path):
    path = tmp_path / "disk.img"
    with_gpt(path)
    header, file = create(path, AUTO)
    run("sfdisk", "--append", "--no-reread", path, stdin="5000,1000,L,\n")
    old = partitions(path)
    fill(path, header)
    take_back(path, file)
    assert [part["start"] for part in old] == [2048, header.start_lba, 5000]
    assert [part["start"] for part in partitions(path)] == [2048, 5000]
    assert "No errors detected" in run("sfdisk", "--verify", path)
    assert not any(path.read_bytes()[header.start : header.end])


def test_a_table_without_our_partition_is_left_alone(tmp_path):
    path = tmp_path / "disk.img"
    with_gpt(path)
    header, file = create(path, AUTO)
    run("sfdisk", "--delete", "--no-reread", path, "2")
    table = partitions(path)
    take_back(path, file)
    assert partitions(path) == table
    assert not any(path.read_bytes()[header.start : header.end])


def mbr_over_the_tail(path, header):
    run("sfdisk", "--quiet", path, stdin="label: dos\n2048,,83\n")


def file_system(path, header):
    run("mkfs.ext4", "-q", "-F", path)
    fill(path, header)
    put(path, [(at, b"used") for at in header.copies])


def swap_space(path, header):
    run("mkswap", path)  # leaves the region's headers alone


def no_headers_any_more(path, header):
    fill(path, header)
    put(path, [(at, bytes(4096)) for at in header.copies])


def newer_region(path, header):
    with Disk(path, write=True) as disk:
        region.retire(disk, header)
    create(path, AUTO)


@pytest.mark.parametrize(
    "change", [mbr_over_the_tail, file_system, no_headers_any_more, newer_region]
)
def test_a_range_that_is_no_longer_ours_is_refused(tmp_path, change):
    path = tmp_path / "disk.img"
    empty(path)
    header, file = create(path, AUTO)
    change(path, header)
    now = path.read_bytes()
    with pytest.raises(LifeboatError) as caught:
        take_back(path, file)
    assert caught.value.code == "undo-stale"
    assert path.read_bytes() == now


def test_a_partition_put_over_the_region_in_a_gpt_is_refused(tmp_path):
    path = tmp_path / "disk.img"
    with_gpt(path)
    header, file = create(path, AUTO)
    blank_header = [(raw.LINUX, 2048, 4095), (raw.LINUX, header.start_lba - 8, SIZE // 512 - 60)]
    put(path, raw.gpt(SIZE, blank_header))  # the region's headers still stand in the range
    now = path.read_bytes()
    with pytest.raises(LifeboatError) as caught:
        take_back(path, file)
    assert caught.value.code == "undo-stale"
    assert path.read_bytes() == now


def test_another_disk_is_refused(tmp_path):
    path = tmp_path / "disk.img"
    empty(path)
    _, file = create(path, AUTO)
    blank(path, SIZE + 4096)
    with pytest.raises(LifeboatError) as caught:
        take_back(path, file)
    assert caught.value.code == "undo-disk"


# --- the file


def test_a_recovery_file_is_small_where_the_disk_was_empty(tmp_path):
    path = tmp_path / "disk.img"
    blank(path, 2 << 30)
    with Disk(path) as disk:
        place = choose(disk, disk_map.look(disk), AUTO, 1 << 30)
        (header,) = region.new_headers(
            [disk], [(place.first, place.sectors)], slots=2, need=1 << 17
        )
        recovery_file.save(recovery_file.take(disk, place, header), tmp_path / "undo.json")
    assert (tmp_path / "undo.json").stat().st_size < 16384


def test_it_is_on_the_medium_before_the_disk_is_changed(tmp_path, lifeboat, monkeypatch):
    path, file = tmp_path / "disk.img", tmp_path / "undo.json"
    empty(path)
    synced, writes = [], []
    fsync, write = os.fsync, Disk.write

    def note_fsync(number):
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def note_write(disk, offset, data):
        writes.append(offset)
        scratch, *folders = synced[:3]  # it got its name when it was whole
        assert scratch.startswith(f"{tmp_path}/.{file.name}.")
        assert folders == [str(tmp_path)] * 2
        assert recovery_file.load(file).size == SIZE
        write(disk, offset, data)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Disk, "write", note_write)
    create = ["region", "create", path, *NUMBERS, "--undo", file, "--yes"]
    assert lifeboat(*create)[0] == 0
    assert writes


@pytest.mark.parametrize("name", ["taken", "taken/undo.json", "no-folder/undo.json"])
def test_without_a_recovery_file_nothing_is_changed(tmp_path, lifeboat, name):
    path = tmp_path / "disk.img"
    empty(path)
    (tmp_path / "taken").write_text("mine")
    create = ["region", "create", path, *NUMBERS, "--undo", tmp_path / name, "--yes", "--json"]
    code, out, _ = lifeboat(*create)
    assert (code, json.loads(out)["error"]["code"]) == (1, "undo-write")
    assert path.read_bytes() == bytes(SIZE)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_recovery_file_that_could_not_be_written_whole_is_not_left(
    tmp_path, lifeboat, monkeypatch
):
    path, file = tmp_path / "disk.img", tmp_path / "undo.json"
    empty(path)
    create = ["region", "create", path, *NUMBERS, "--undo", file, "--yes", "--json"]

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, out, _ = lifeboat(*create)
    assert (code, json.loads(out)["error"]["code"]) == (1, "undo-write")
    assert os.listdir(tmp_path) == ["disk.img"]
    assert path.read_bytes() == bytes(SIZE)
    assert lifeboat(*create)[0] == 0


def test_ctrl_c_says_how_to_go_back_and_leaves_no_file_of_an_unchanged_disk(
    tmp_path, lifeboat, monkeypatch
):
    paths = [tmp_path / name for name in ("a.img", "b.img")]
    for path in paths:
        dirty_tail(path)
    before = [path.read_bytes() for path in paths]
    used = f"{(SIZE - 600000) // 512}-{SIZE // 512 - 1}"
    create = ["region", "create", *paths, *NUMBERS, "--undo", tmp_path, "--yes", "--json"]
    write = Disk.write
    left = iter(range(40))  # all of the slots, the journal and the extents

    def interrupted(disk, offset, data):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(disk, offset, data)

    def run_interrupted(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(Disk, "write", interrupted)
            code, out, _ = lifeboat(*arguments)
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (130, "interrupted")
        return error["hint"]

    hint = run_interrupted(*create, "--overwrite", used, "--overwrite", used)
    assert [a == path.read_bytes() for a, path in zip(before, paths)] == [False, True]
    (file,) = tmp_path.glob("*.json")
    assert hint == f"to go back: lifeboat region remove {paths[0]} --undo {file}"
    command = [*hint.split()[4:], "--yes", "--json"]
    left = iter(())
    assert run_interrupted(*command).endswith("run the same command again")
    assert lifeboat(*command)[0] == 0
    assert paths[0].read_bytes() == before[0]


def broken(change):
    def apply(content):
        change(content)
        return json.dumps(content)

    return apply


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: "",
        lambda content: json.dumps(content)[:-900],
        lambda content: "[]",
        broken(lambda c: c.pop("parts")),
        broken(lambda c: c.update({"lifeboat-undo": 2})),
        broken(lambda c: c["parts"]["headers"]["old"].pop()),
        broken(lambda c: c["parts"]["body"]["old"][0].update(offset=0)),
        broken(lambda c: c["parts"]["body"]["old"][0].update(size=-1)),
        broken(lambda c: c["parts"]["table"]["old"].append({"offset": -512, "size": 512})),
        broken(lambda c: c["parts"]["table"]["old"].append({"offset": SIZE, "size": 512})),
        broken(lambda c: c["parts"]["headers"]["new"][0].update(sha256="0" * 64)),
        broken(lambda c: c["parts"]["headers"]["new"][0].update(data="AAAA")),
        broken(lambda c: c["region"].update(start=0)),
        broken(lambda c: c["region"].update(end=SIZE + 4096)),
    ],
)
def test_a_damaged_recovery_file_is_refused(tmp_path, spoil):
    path = tmp_path / "disk.img"
    empty(path)
    _, file = create(path, AUTO)
    content = json.loads(file.read_text())
    file.write_text(spoil(content))
    with pytest.raises(LifeboatError) as caught:
        recovery_file.load(file)
    assert caught.value.code == "undo-broken"


# --- without the file


@pytest.mark.parametrize("case", ["tail", "new partition", "own partition"], indirect=True)
def test_without_the_file_only_the_region_ends(case, lifeboat):
    path, where, _ = case
    header, _ = create(path, where)
    fill(path, header)
    put(path, [(header.slot(index), b"LBCOMMIT") for index in (0, 1)])
    content = path.read_bytes()
    code, out, err = lifeboat("region", "remove", path, "--yes", "--json")
    assert (code, err) == (0, "")
    (removed,) = json.loads(out)["removed"]
    assert removed["first"] == header.start_lba
    now = path.read_bytes()
    changed = {
        at // 4096
        for at in range(header.start, header.end, 4096)
        if now[at : at + 4096] != content[at : at + 4096]
    }
    units = [*header.copies, header.slot(0), header.slot(1)]
    assert changed == {at // 4096 for at in units}
    assert not any(now[at : at + 4096].strip(b"\0") for at in units)
    if where == AUTO and removed["table"] == "entry":
        assert [part["start"] for part in partitions(path)] == [2048]
        assert "No errors detected" in run("sfdisk", "--verify", path)
    assert lifeboat("region", "remove", path, "--yes")[0] == 1  # there is none any more


@pytest.mark.parametrize("with_file", [True, False])
def test_a_region_on_a_disk_that_holds_something_else_now_needs_its_range_named(
    tmp_path, lifeboat, monkeypatch, with_file
):
    """An application has a file system on user_area(), or mkfs was given the whole disk."""
    path = tmp_path / "disk.img"
    empty(path)
    header, file = create(path, AUTO)
    swap_space(path, header)
    now = path.read_bytes()
    first, last = header.start_lba, header.start_lba + header.sectors - 1
    remove = ["region", "remove", path, *(["--undo", file] if with_file else [])]
    for given in ([], ["--overwrite", f"{first}-{last - 1}"]):
        code, out, _ = lifeboat(*remove, "--yes", "--json", *given)
        assert (code, json.loads(out)["error"]["code"]) == (1, "overwrite")
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    assert lifeboat(*remove)[0] == 1
    assert path.read_bytes() == now
    monkeypatch.setattr(sys, "stdin", Terminal(f"{first}-{last}\nyes\n"))
    assert lifeboat(*remove)[0] == 0
    after = path.read_bytes()
    assert after[: header.start] == now[: header.start]
    assert not any(after[at] for copy in header.copies for at in range(copy, copy + 4096))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("with_file", [True, False])
@pytest.mark.parametrize(
    "command", [("mkfs.ext4", "-q"), ("mkfs.vfat",), ("mkswap",)], ids=lambda command: command[0]
)
def test_a_file_system_in_our_partition_is_not_destroyed_unasked(
    tmp_path, lifeboat, command, with_file
):
    """Its type is still lifeboat's, and header copies that mkfs did not write on are whole."""
    path = tmp_path / "disk.img"
    with_gpt(path)
    header, file = create(path, AUTO)
    fill(path, header)
    whole = path.read_bytes()
    part = tmp_path / "part"
    part.write_bytes(whole[header.start : header.end])
    run(*command, part)
    put(path, [(header.start, part.read_bytes())])
    for offset in header.copies[1:]:
        put(path, [(offset, whole[offset : offset + 4096])])
    now = path.read_bytes()
    remove = ["region", "remove", path, *(["--undo", file] if with_file else []), "--yes"]
    code, out, _ = lifeboat(*remove, "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (1, "overwrite")
    assert "in partition 2 'lifeboat'" in error["message"]
    assert path.read_bytes() == now
    expected = "undo-stale" if with_file else "region-none"
    for gone in (b"used", bytes(4)):  # now no header is left
        put(path, [(offset, gone) for offset in header.copies])
        now = path.read_bytes()
        code, out, _ = lifeboat(*remove, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, expected)
        assert path.read_bytes() == now


def test_removal_spares_what_is_no_header_and_no_commit_record(tmp_path, lifeboat):
    path = tmp_path / "disk.img"
    empty(path)
    header, _ = create(path, AUTO)
    put(path, [(header.start, b"not a header"), (header.slot(0), b"not a record")])
    now = path.read_bytes()
    assert lifeboat("region", "remove", path, "--yes")[0] == 0
    after = path.read_bytes()
    assert after[: header.copies[1]] == now[: header.copies[1]]
    assert not any(after[header.copies[1] :])


# --- what changes while a person thinks


class Meanwhile(Terminal):
    """A person who answers yes, and in the meantime somebody else uses the disk."""

    def __init__(self, change, *arguments):
        super().__init__("yes\n")
        self.change = lambda: change(*arguments)

    def readline(self):
        self.change()
        return super().readline()


def one_more_partition(path):
    run("sfdisk", "--append", "--no-reread", path, stdin="size=2MiB,type=L\n")


def written_to_the_tail(path):
    put(path, [(SIZE - 700000, b"x")])


def written_to_the_last_sector(path):
    put(path, [(SIZE - 9, b"x")])


@pytest.mark.parametrize(
    ("make", "where", "change"),
    [
        (with_gpt, [], one_more_partition),
        (dirty_tail, [], written_to_the_tail),
        (empty, [], written_to_the_tail),
        (empty, ["--gpt"], written_to_the_last_sector),
        (empty, [], lambda path: run("mkfs.ext4", "-q", "-F", path)),
        (empty, [], lambda path: mbr_over_the_tail(path, None)),
    ],
)
def test_a_disk_that_changed_after_the_question_is_not_written(
    tmp_path, lifeboat, monkeypatch, make, where, change
):
    path = tmp_path / "disk.img"
    make(path)
    kept = []

    def changed():
        change(path)
        kept.append(path.read_bytes())

    plan = json.loads(lifeboat("region", "plan", path, *NUMBERS, *where, "--json")[1])
    used = plan["disks"][0]["proposal"]["overwrites"]
    overwrite = ["--overwrite", "{}-{}".format(*used)] if used else []
    monkeypatch.setattr(sys, "stdin", Meanwhile(changed))
    create = ["region", "create", path, *NUMBERS, *where, *overwrite, "--undo", tmp_path]
    code, out, _ = lifeboat(*create, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "disk-changed")
    assert kept == [path.read_bytes()]
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("with_file", [True, False])
def test_a_disk_that_changed_after_the_question_is_not_given_back(
    tmp_path, lifeboat, monkeypatch, with_file
):
    path = tmp_path / "disk.img"
    with_gpt(path)
    header, file = create(path, AUTO)

    def ours_becomes_theirs():
        put(path, raw.gpt(SIZE, [*PARTITIONS, (raw.LINUX, header.start_lba, 16000)]))
        kept.append(path.read_bytes())

    kept = []
    monkeypatch.setattr(sys, "stdin", Meanwhile(ours_becomes_theirs))
    remove = ["region", "remove", path, *(["--undo", file] if with_file else [])]
    code, out, _ = lifeboat(*remove, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "disk-changed")
    assert kept == [path.read_bytes()]


# --- behind a board


class OldAgent:
    """The agent of a boot stage that is older than the memory."""

    def call_if_known(self, name, *args):
        return None

    def call(self, name, *args):
        return {"members": {"members": [], "reasons": []}, "disks": []}[name]


class Remote(Disk):
    """As a board gives it: whole sectors, and no file for the host's tools."""

    local = False
    agent = OldAgent()

    def write(self, offset, data):
        assert offset % 512 == len(data) % 512 == 0
        super().write(offset, data)


def test_the_same_commands_work_on_the_disks_of_a_board(tmp_path, case, lifeboat, monkeypatch):
    path, where, before = case
    asked = []

    @contextmanager
    def open_disks(port, names, write=False):
        asked.append((port, list(names), write))
        with Remote(path, write=write) as disk:
            yield [disk]

    monkeypatch.setattr(board_disk, "open_disks", open_disks)
    way = {AUTO: [], region.GPT: ["--gpt"]}.get(where, ["--lba", where])
    port = ["--port", "/dev/pts/9", *NUMBERS, *way]
    told = json.loads(lifeboat("region", "plan", *port, "--json")[1])["disks"][0]
    used = told["proposal"]["overwrites"]
    consent = ["--overwrite", "{}-{}".format(*used)] if used else []
    undo_file = tmp_path / "undo.json"
    code, _, err = lifeboat(
        "region", "create", "sata0", *port, "--yes", "--undo", undo_file, *consent
    )
    assert (code, err) == (0, "")
    remove = ["region", "remove", "sata0", *port[:2], "--undo", undo_file, "--yes"]
    assert lifeboat(*remove)[0] == 0
    assert path.read_bytes() == before
    assert asked == [
        ("/dev/pts/9", [], False),
        ("/dev/pts/9", ["sata0"], True),
        ("/dev/pts/9", ["sata0"], True),
    ]
