"""`lifeboat demo`: a board heals its code flash, again and again, from its disks."""

from __future__ import annotations

import argparse
import random
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.rule import Rule

from lifeboat_host.base import tree
from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import candidate, image, region
from lifeboat_host.model.draft import Signer
from lifeboat_host.model.formats import Manifest
from lifeboat_host.pico.board import make
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu.board_spec import BoardSpec
from lifeboat_host.qemu.machine import Board, Drive, Usb
from lifeboat_host.signing.demo_keys import CODE, DemoSigner
from lifeboat_host.ui import flash_picture, report_table
from lifeboat_host.ui.output import Output

_APPS = "host_tools/lifeboat_host/apps"
_APP_LINES = ("app: cache", "app: health")
_DISK_SIZE = 256 << 20
_BESIDE, _ONLY = "beside", "only"  # where a USB disk stands
# As much as serial flashes and an SD card take in a demo's time.
_SERIAL_OS_SIZE = {"mtd": 8 << 20, "port": 48 << 10}
# For a controller with 200 KB of RAM, and an emulator that needs seconds for a power-on.
_SMALL_APP = 'print("app: cache of nothing")\nprint("app: health")\n'


class Stage:
    """The media of the demo, in a folder of their own, and the original image."""

    def __init__(self, folder: Path, seed: int, spec: BoardSpec, usb: str | None = None) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.spec = spec
        self.flash = folder / "flash.img"
        count = 1 if spec.disk_kind == "sd" or usb == _ONLY else 2
        self.usb = {None: 0, _BESIDE: 1, _ONLY: 1}[usb]  # how many of the disks, the last ones
        self.disks = [folder / f"disk{number}.img" for number in range(count)]
        self.original = b""
        self.manifest: Manifest
        self.payload: Path
        self.apps: Path
        self.small = spec.flash_kind == "port"

    def prepare(self) -> None:
        """Build the image, and two disks with a region each."""
        payload = tree.cache() / "payload" / "os.bin"
        if not payload.is_file():
            hint = "run ./lifeboat setup, which fetches real firmware"
            raise LifeboatError("no-payload", f"{payload}: no operating system to protect", hint)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.spec.flash_kind in _SERIAL_OS_SIZE:
            part = self.folder / "os.bin"
            part.write_bytes(payload.read_bytes()[: _SERIAL_OS_SIZE[self.spec.flash_kind]])
            payload = part
        self.apps = tree.root() / _APPS
        if self.small:
            self.apps = self.folder / "apps"
            self.apps.mkdir()
            (self.apps / "main.py").write_text(_SMALL_APP)
        signer = DemoSigner(CODE) if self.spec.policy == board_spec.SIGNED else None
        self.payload = payload
        self.manifest = self.build(self.flash, "1.0", signer)
        self.original = self.flash.read_bytes()
        need = region.slot_size_for(self.spec.flash_size, self.spec.block_size)
        with ExitStack() as stack:
            for path in self.disks:
                with open(path, "wb") as file:
                    file.truncate(_DISK_SIZE)
            opened = [stack.enter_context(Disk(path, write=True)) for path in self.disks]
            for disk, header in zip(opened, region.new_set(opened, region.TAIL, need=need)):
                region.create(disk, header)

    def build(self, path: Path, version: str, signer: Signer | None = None) -> Manifest:
        """An image of the payload and the applications."""
        return image.build(
            [image.Source("os", self.payload), image.Source("apps", self.apps)],
            path,
            product=self.spec.product,
            version=version,
            flash_size=self.spec.flash_size,
            block_size=self.spec.block_size,
            signer=signer,
        )

    def drives(self, pulled: Sequence[int] = ()) -> list[Drive]:
        """The disks but those pulled, as QEMU is given them."""
        sata = len(self.disks) - self.usb
        found: list[Drive] = [
            None if number in pulled else path for number, path in enumerate(self.disks[:sata])
        ]
        usb = [Usb(p) for n, p in enumerate(self.disks[sata:], sata) if n not in pulled]
        return found + usb

    @property
    def manifest_block(self) -> int:
        return self.spec.flash_size // self.spec.block_size - 1

    def content(self) -> bytearray:
        """The flash as an image: without the memory, which is the controller's own."""
        data = bytearray(self.flash.read_bytes())
        place = self.manifest.memory(self.spec.flash_size)
        data[place.start : place.stop] = b"\xff" * len(place)
        return data

    def damaged(self) -> list[int]:
        """Blocks of the flash that are not the original's."""
        size = self.spec.block_size
        now = self.content()
        starts = range(0, len(self.original), size)
        changed = [now[at : at + size] != self.original[at : at + size] for at in starts]
        return [block for block, differs in enumerate(changed) if differs]

    def cells(self, damaged: Sequence[int] = (), repaired: Sequence[int] = ()) -> Any:
        return flash_picture.cells(self.manifest, self.spec.flash_size, damaged, repaired)

    # damage

    def overwrite(self, offset: int, data: bytes) -> None:
        """Put bytes into the flash."""
        _put(self.flash, offset, data)

    def erase(self, block: int) -> None:
        self.overwrite(block * self.spec.block_size, b"\xff" * self.spec.block_size)

    def flip_bits(self, places: int) -> None:
        """One bit in each of so many random places of the code."""
        for place in self.rng.sample(range(self.manifest.code_size), places):
            self.overwrite(place, bytes([self.original[place] ^ 1 << self.rng.randrange(8)]))

    def random_bytes(self, count: int) -> None:
        for place in self.rng.sample(range(self.manifest.code_size), count):
            self.overwrite(place, bytes([self.rng.randrange(256)]))

    def garble(self, block: int) -> None:
        """A block full of random bytes."""
        self.overwrite(block * self.spec.block_size, self.rng.randbytes(self.spec.block_size))

    def rot(self, disk: int, blocks: Sequence[int]) -> None:
        """Damage these blocks of the backup copy on a disk."""
        with Disk(self.disks[disk]) as opened:
            slot = region.newest(region.read_slots(opened, region.find(opened).header))
        if slot is None:
            raise LifeboatError("demo", f"{self.disks[disk]}: no backup copy to damage")
        for block in blocks:
            place = slot.block(block)
            _put(self.disks[disk], place + 1000, b"rotten")

    def rotten(self, disk: int) -> list[int] | None:
        """Damaged blocks of the original's backup on a disk; None: it is not there."""
        with Disk(self.disks[disk]) as opened:
            slot = region.newest(region.read_slots(opened, region.find(opened).header))
            if not slot or not slot.manifest or slot.manifest.build_id != self.manifest.build_id:
                return None
            return region.verify(opened, [slot])[0].bad


def _put(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@dataclass(frozen=True)
class Round:
    """One thing that goes wrong. pulled: numbers of the disks that are not there; disks: how many
    the board must have for it. signed: it takes a board that has keys; parity: one with the extra
    of this name. large: left out where a power-on takes long.
    """

    title: str
    damage: Callable[[Stage], None]
    pulled: Sequence[int] = ()
    disks: int = 1
    signed: bool = False
    parity: bool = False
    large: bool = False


def _first_and_last(stage: Stage) -> None:
    stage.garble(0)
    stage.garble(stage.manifest.block_count - 1)


def _everything_erased(stage: Stage) -> None:
    stage.overwrite(0, b"\xff" * stage.spec.flash_size)


def _flash_and_one_copy(stage: Stage) -> None:
    blocks = [3, 4, 5]
    stage.rot(0, blocks)
    for block in [*blocks, 6]:
        stage.garble(block)


def _both_copies(stage: Stage) -> None:
    stage.rot(0, [1, 2])
    stage.rot(1, [7, 8])
    for block in (1, 2, 7, 8):
        stage.erase(block)


def _everywhere(stage: Stage) -> None:
    for disk in range(len(stage.disks)):
        stage.rot(disk, [5, 6])
    for block in (5, 6):
        stage.erase(block)


def _intruder(stage: Stage) -> None:
    """Somebody's own code, with all sums right and nobody's signature."""
    path = stage.folder / "intruder.img"
    code = bytearray(stage.payload.read_bytes())
    code[-4096:] = stage.rng.randbytes(4096)
    stage.payload = stage.folder / "intruder.bin"
    stage.payload.write_bytes(code)
    manifest = stage.build(path, "6.6")
    data = path.read_bytes()
    stage.overwrite(0, data[: manifest.code_size])
    block = stage.spec.block_size
    stage.overwrite(stage.manifest_block * block, data[-block:])


ROUNDS = (
    Round("ten flipped bits", lambda stage: stage.flip_bits(10)),
    Round("an erased block", lambda stage: stage.erase(2), large=True),
    Round(
        "1000 random bytes all over the code", lambda stage: stage.random_bytes(1000), large=True
    ),
    Round("the first and the last block full of garbage", _first_and_last, large=True),
    Round("the manifest destroyed", lambda stage: stage.garble(stage.manifest_block)),
    Round("the whole code flash erased", _everything_erased),
    Round("one disk pulled, ten flipped bits", lambda stage: stage.flip_bits(10), (0,), 2),
    Round("four blocks, three of them rotten on one disk too", _flash_and_one_copy, disks=2),
    Round("four blocks, each disk has only two of them right", _both_copies, disks=2),
    Round("two blocks, bad in the flash and on every disk", _everywhere, parity=True),
    Round("an intruder's own code, whole, with all sums right", _intruder, signed=True),
    Round("nothing: a healthy board writes nothing", lambda stage: None),
)


def power_on(stage: Stage, pulled: Sequence[int] = ()) -> tuple[dict[str, Any], bool, float]:
    """(report, whether both applications ran, seconds from power-on to the report)."""
    start = time.monotonic()
    with make(stage.flash, stage.drives(pulled), spec=stage.spec) as board:
        found = board.power_on_report()
        seconds = time.monotonic() - start
        return found, found["verdict"] != "RESCUE" and _applications_run(board), seconds


def _applications_run(board: Board) -> bool:
    try:
        for line in _APP_LINES:
            if line not in board.console:  # the applications speak in any order
                board.wait_for(line)
    except LifeboatError:
        return False
    return True


def play(stage: Stage, item: Round) -> dict[str, Any]:
    """Damage, power on, compare. `ok` tells whether everything is as it must be."""
    item.damage(stage)
    damaged = stage.damaged()
    found, ran, seconds = power_on(stage, item.pulled)
    identical = stage.content() == stage.original
    thrifty = found["erases"] == len(damaged) and (damaged or not found["disk_writes"])
    rotten = [stage.rotten(number) for number in range(len(stage.disks))]
    return {
        "round": item.title,
        "damaged": damaged,
        "verdict": found["verdict"],
        "repaired": found["repaired"],
        "erases": found["erases"],
        "seconds": round(seconds, 2),
        "identical": identical,
        "applications_ran": ran,
        "rotten": rotten,
        "ok": identical and ran and bool(thrifty) and None not in rotten,
        "report": found,
    }


# --- updates -------------------------------------------------------------------------------

# What the new application does first.
_CONFIRMS = "import lifeboat\nlifeboat.confirm()\n"
_CRASHES = 'raise RuntimeError("the new application does not start")\n'


def update(stage: Stage, title: str, version: str, start: str, stays: bool) -> dict[str, Any]:
    """A card brings a new build, a person accepts it, the board tries it; as play()."""
    new = stage.folder / "new.img"
    apps, stage.apps = stage.apps, stage.folder / "new-apps"
    shutil.rmtree(stage.apps, ignore_errors=True)
    shutil.copytree(apps, stage.apps)
    main_py = stage.apps / "main.py"
    main_py.write_text(start + main_py.read_text())
    signed = stage.spec.policy == board_spec.SIGNED
    manifest = stage.build(new, version, DemoSigner(CODE) if signed else None)
    _carry(stage, new, manifest)
    with make(stage.flash, stage.drives(), spec=stage.spec) as board:
        board.power_on_report()
        _applications_run(board)  # before, nobody hears Ctrl-C
        board.repl(interrupt=True)
        accept = f"import board\nfrom lifeboat import update\nupdate.accept(board, {version!r})"
        _, error = board.run(accept, 300)
        if error:
            raise LifeboatError("demo", f"the board does not accept the new build: {error}")
    began = time.monotonic()
    with make(stage.flash, stage.drives(), spec=stage.spec) as board:
        tried = board.power_on_report()
        board.wait_for("lifeboat-trial: " + ("confirmed" if stays else "rejected"), 120)
        if not stays:
            board.power_on_report()  # it has reset itself
    seconds = time.monotonic() - began
    if stays:
        stage.manifest, stage.original = manifest, new.read_bytes()
    else:
        stage.apps = apps
    found, ran, _ = power_on(stage)
    identical = stage.content() == stage.original
    rotten = [stage.rotten(number) for number in range(len(stage.disks))]
    right = tried["version"] == version and found["verdict"] == "RUN"
    return {
        "round": title,
        "damaged": [],
        "verdict": found["verdict"],
        "repaired": [],
        "erases": tried["erases"],
        "seconds": round(seconds, 2),
        "identical": identical,
        "applications_ran": ran,
        "rotten": rotten,
        "ok": identical and ran and right and None not in rotten,
        "report": found,
    }


def _carry(stage: Stage, new: Path, manifest: Manifest) -> None:
    size = manifest.block_size
    data = new.read_bytes()
    with Disk(stage.disks[0], write=True) as disk:
        header = region.find(disk).header
        slot = candidate.room(disk, header, manifest)
        candidate.write(disk, header, slot, manifest, lambda block: data[block * size :][:size])


UPDATES: tuple[tuple[str, str, str, bool], ...] = (
    ("a bad update comes back by itself", "1.1", _CRASHES, False),
    ("a good update stays", "1.2", _CONFIRMS, True),
)


def _show(output: Output, stage: Stage, result: dict[str, Any]) -> None:
    damaged = result["damaged"]
    if damaged:
        repaired = [] if not result["identical"] else damaged
        after = stage.cells(stage.damaged(), repaired)
        output.show(
            flash_picture.before_after(
                stage.cells(damaged), after, stage.spec.block_size, output.ascii_only
            )
        )
    output.show(
        f"damaged   {report_table.spans(_ranges(damaged))}, {len(damaged)} in all",
        f"repaired  {_sources(result['repaired'])}",
        f"cost      {result['erases']} erases, {result['seconds']} s from power-on to the verdict "
        f"{result['verdict']}",
        f"flash     {'identical to' if result['identical'] else 'DIFFERS FROM'} the original; "
        f"applications {'run' if result['applications_ran'] else 'DO NOT RUN'}",
        f"backups   {'; '.join(_backup(*item) for item in enumerate(result['rotten']))}",
        "",
    )


def _show_update(output: Output, result: dict[str, Any]) -> None:
    output.show(
        f"tried     {result['erases']} erases for the blocks that differ",
        f"outcome   version {result['report']['version']} runs after {result['seconds']} s; "
        f"flash {'as it must be' if result['identical'] else 'NOT AS IT MUST BE'}; "
        f"applications {'run' if result['applications_ran'] else 'DO NOT RUN'}",
        f"backups   {'; '.join(_backup(*item) for item in enumerate(result['rotten']))}",
        "",
    )


def _backup(disk: int, rotten: list[int] | None) -> str:
    if rotten is None:
        return f"disk {disk}: NONE"
    if not rotten:
        return f"disk {disk}: good"
    # A power-on reads no more of the copies than it needs: the rest is for a patrol read.
    return f"disk {disk}: {report_table.spans(_ranges(rotten))} damaged, read by no power-on yet"


def _sources(repaired: Sequence[Sequence[Any]]) -> str:
    """Which blocks came from which disk."""
    disks = sorted({disk for _, _, disk in repaired})
    parts = []
    for name in disks:
        ranges = [[first, count] for first, count, disk in repaired if disk == name]
        parts.append(f"from {name}: {report_table.spans(ranges)}")
    return "; ".join(parts) or "none"


def _ranges(blocks: Sequence[int]) -> list[list[int]]:
    """[first, count] of each run of consecutive numbers."""
    ranges: list[list[int]] = []
    for block in blocks:
        if ranges and sum(ranges[-1]) == block:
            ranges[-1][1] += 1
        else:
            ranges.append([block, 1])
    return ranges


def main(arguments: Sequence[str]) -> int:
    """`lifeboat demo`. Returns the exit code: 0 when everything healed."""
    parser = argparse.ArgumentParser(prog="lifeboat demo", description=__doc__)
    parser.add_argument("--board", default=board_spec.DEFAULT_BOARD, help="board id")
    options.add_policy(parser, "--sign")
    parser.add_argument(
        "--usb",
        nargs="?",
        choices=(_BESIDE, _ONLY),
        const=_BESIDE,
        help="with a USB disk beside a SATA disk (the default), or as the only one",
    )
    parser.add_argument("--seed", type=int, default=1, help="other random damage (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(arguments)
    output = Output(json=args.json)
    spec = board_spec.load(args.board, args.policy)
    if args.usb:
        spec.with_usb()  # or an error that says which board has it
    stage = Stage(tree.cache() / "demo", args.seed, spec, args.usb)
    stage.prepare()
    with make(stage.flash, stage.drives(), spec=stage.spec) as board:
        command = board.command_line()
        first = board.power_on_report()
    segments = ", ".join(f"{s.name} {s.size} bytes" for s in stage.manifest.segments)
    output.show(
        f"{stage.spec.name}: {segments}; {stage.manifest.block_count} blocks in a flash of "
        f"{stage.spec.flash_size >> 20} MB; build {stage.manifest.build}",
        "",
        command,
        "",
        Rule("first power-on: the backups are made"),
        report_table.table(first),
        "",
    )
    backed_up = [member["state"] for member in first["members"]] == ["created"] * len(stage.disks)
    signed = stage.spec.policy == board_spec.SIGNED
    rounds = [
        item
        for item in ROUNDS
        if item.disks <= len(stage.disks)
        and (signed or not item.signed)
        and not (stage.small and (item.large or item.parity))
    ]
    results = []
    # A microcontroller's boot stage has no room for the extras parity and update.
    updates = () if stage.small else UPDATES
    count = len(rounds) + len(updates)
    for number, item in enumerate(rounds, 1):
        output.show(Rule(f"{number} of {count}: {item.title}"))
        result = play(stage, item)
        results.append(result)
        _show(output, stage, result)
        if not result["identical"]:
            stage.overwrite(0, stage.original)  # the next round starts from good code
    for number, (title, version, start, stays) in enumerate(updates, len(rounds) + 1):
        output.show(Rule(f"{number} of {count}: {title}"))
        result = update(stage, title, version, start, stays)
        results.append(result)
        _show_update(output, result)
    healed = sum(result["ok"] for result in results)
    ok = backed_up and healed == len(results)
    output.result({"ok": ok, "first": first, "rounds": results, "command": command})
    log = shlex.join(["./lifeboat", "log", *map(str, stage.disks)])
    output.show(f"what the disks have noted of it: {log}")
    output.show(f"and what the damage was: {log} --evidence", "")
    word = "all healed" if ok else "NOT ALL HEALED"
    output.show(f"{word}: {healed} of {len(results)} rounds, the images are in {stage.folder}")
    return EXIT_OK if ok else EXIT_ERROR
