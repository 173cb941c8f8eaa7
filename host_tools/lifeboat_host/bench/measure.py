"""`lifeboat bench`: what the board's code costs, held against the stated goals."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pyhsslms.pyhsslms import LmsPrivateKey, lmots_sha256_n24_w4, lms_sha256_m24_h10
from rich.table import Table
from rich.text import Text

from lifeboat_host.base import tree
from lifeboat_host.base.errors import EXIT_DAMAGE, EXIT_OK, LifeboatError
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import image, memory, region
from lifeboat_host.pico.board import make
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu.board_spec import BoardSpec
from lifeboat_host.qemu.machine import Board
from lifeboat_host.ui.output import Output

_ICOUNT = "shift=0,sleep=off"  # an instruction is a nanosecond of the guest's clock
_HEAP_DEVICE = Path(__file__).with_name("on_board_heap_device.py")
_DEVICE = Path(__file__).with_name("on_board_device.py")
_KB, _MB, _TB = 1 << 10, 1 << 20, 1 << 40
_DISK = 256 * _MB
# Where the code's size does not matter. Its inspection takes longer than empty SATA ports need to
# be told from slow disks, so that no power-on waits for them.
_SMALL_CODE = 8 * _MB

# Modules that a board may leave out: power-on does without them.
_EXTRAS = (
    "advice",
    "agent",
    "evidence",
    "journal",
    "lock",
    "parity",
    "partitioning",
    "romfs",
    "scrub",
    "signed",
    "update",
    "userarea",
)
# Bytes of the drivers as of 0.1.0's first bench that held the core to 43 KB with one flash and one
# disk driver. What the field's odd parts need may be added to a driver, up to a limit of its own;
# it is not taken from the core's, nor may the core grow into it.
_DRIVERS = {"ahci": 4620, "cfi": 2315, "sdspi": 3830, "spinor": 4111}
_DRIVER_GROWTH = 1536
_CORE_AND_DRIVERS = 43 * _KB

_WIDTH = 138  # of the table, also where the terminal is narrower
_TIMEOUT = 1800  # seconds for one measurement on the board: a full heap is swept again and again

# docs/performance.md says where these figures come from: they need other code on the board.
_SHA256_FLOOR = 60.0
_SPI_FLOOR = 2.9


@dataclass(frozen=True)
class Plan:
    """What is measured on a board, and the goals that are the board's own; sizes in bytes.

    tick: instructions per tick of its clock. drivers, bus: what its firmware holds beside the
    core; the bus counts apart. inspected, code: how much code where it is only inspected, and
    where it is restored and backed up. reads: (bytes per disk command, goal). times: how often
    to measure what works with a disk. survey: goal for a member, in millions of instructions.
    one_bad: goal for a power-on with one bad block, times its parts.
    """

    tick: int
    drivers: str
    bus: str
    inspected: int
    code: int
    members: int
    reads: tuple[tuple[int, float | None], ...]
    times: int = 1
    survey: float | None = None
    one_bad: float | None = None
    arch: str = "rv32"  # of the firmware's manifest
    march: str = "rv32imc"  # of mpy-cross


_PLANS = {
    "qemu_virt": Plan(
        tick=100,
        drivers="cfi ahci",
        bus="",
        inspected=16 * _MB,
        code=16 * _MB,
        members=2,
        reads=((8 * _MB, 0.02), (_MB, 0.02)),
        times=3,
        survey=3,
        one_bad=1.15,
    ),
    # QEMU's SD card answers within the store that asks it, so nothing is to be repeated. Each
    # byte is two exits of the emulator, so there is little code.
    "qemu_sifive_u": Plan(
        tick=1000,
        drivers="spinor sdspi",
        bus="sifive_spi",
        inspected=8 * _MB,
        code=640 * _KB,
        members=1,
        reads=((64 * _KB, None),),
    ),
    # Its emulator counts no instructions: sizes and heap only.
    "rp2_sd": Plan(
        tick=0,
        drivers="portflash sdspi",
        bus="",
        inspected=0,
        code=128 * _KB,
        members=1,
        reads=(),
        arch="viper",
        march="armv6m",
    ),
}


def plan_for(spec: BoardSpec) -> Plan:
    """Raises LifeboatError bench for a board that nobody planned for."""
    if spec.id not in _PLANS:
        hint = f"boards: {', '.join(_PLANS)}"
        raise LifeboatError("bench", f"{spec.id}: nothing is known to be measured there", hint)
    return _PLANS[spec.id]


@dataclass(frozen=True)
class Row:
    """One figure. It is judged when it has a limit, or a limit as a multiple of the floor."""

    key: str
    what: str
    unit: str
    value: float
    floor: float | None = None
    limit: float | None = None
    times_floor: float | None = None
    note: str = ""

    @property
    def reach(self) -> float | None:
        if self.times_floor is not None and self.floor is not None:
            return self.times_floor * self.floor
        return self.limit

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None

    @property
    def ok(self) -> bool | None:
        return None if self.reach is None else self.value <= self.reach

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "what": self.what,
            "unit": self.unit,
            "value": self.value,
            "floor": self.floor,
            "reach": self.reach,
            "ratio": self.ratio,
            "ok": self.ok,
            "note": self.note,
        }


# --- the board under test ------------------------------------------------------------------


class Bench:
    """A running board that has the device half loaded, and backups on all its disks."""

    def __init__(self, board: Board, plan: Plan) -> None:
        self.board = board
        self.plan = plan
        if plan.tick:
            self.ask(f"setup({plan.tick})")

    def ask(self, call: str) -> Any:
        """The value that a call of the device half says. Raises LifeboatError bench."""
        out, err = self.board.run(call, timeout=_TIMEOUT)
        if err:
            raise LifeboatError("bench", f"{call} failed on the board: {err.strip()}")
        return json.loads(out.splitlines()[-1])

    def insn(self, call: str) -> float:
        """The instructions that a call counted."""
        return float(self.ask(call)["insn"])

    def disk_insn(self, call: str, rounds: int = 1) -> float:
        """The same of a call that works with a disk: the least of several, as the heap is not the
        same each time, and waits are not subtracted to the instruction."""
        return min(self.insn(call) for _ in range(rounds * self.plan.times))

    def power_on(self) -> dict[str, Any]:
        """One power-on that must end well: {insn, commands, report}."""
        found: dict[str, Any] = self.ask("power_on()")
        if found["report"]["verdict"] == "RESCUE":
            raise LifeboatError("bench", f"the power-on failed: {found['report']}")
        return found

    def power_on_insn(self) -> float:
        return min(float(self.power_on()["insn"]) for _ in range(self.plan.times))


# Says when it runs: nothing comes before its first line.
_APPLICATION = """\
from machine import mem32
import lifeboat.running
lifeboat.running.application = mem32[0x0200BFF8]
"""


@contextmanager
def started(
    spec: BoardSpec,
    code_size: int,
    members: int = 0,
    disk_size: int = _DISK,
    application: bool = False,
) -> Iterator[Bench]:
    """A board with so much random code in its flash and a backup of it on so many disks.

    application: the last block of the code is one that runs.
    """
    with ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="bench.", dir=tree.cache())
        folder = stack.enter_context(scratch)
        flash = Path(folder, "flash.img")
        sources = [image.Source("os", Path(folder, "os.bin"))]
        if application:
            sources.append(image.Source("app", Path(folder, "app")))
            sources[1].path.mkdir()
            Path(sources[1].path, "main.py").write_text(_APPLICATION)
            code_size -= spec.block_size
        sources[0].path.write_bytes(random.Random(1).randbytes(code_size))
        image.build(
            sources,
            flash,
            product=spec.product,
            version="1.0",
            flash_size=spec.flash_size,
            block_size=spec.block_size,
        )
        paths = [Path(folder, f"disk{number}.img") for number in range(members)]
        _make_regions(spec, paths, disk_size)
        # A flush of the host's own disk would be counted as waiting.
        drives = [
            {"driver": "file", "filename": str(path), "cache": {"no-flush": True}}
            for path in paths
        ]
        if counts(spec):
            board = Board(flash, drives, spec=spec, icount=_ICOUNT)
        else:
            board = make(flash, paths, spec=spec)
        stack.enter_context(board)
        report = board.power_on_report()
        states = [member["state"] for member in report["members"]]
        if states.count("created") != members:
            raise LifeboatError("bench", f"no backup at the first power-on: {report}")
        board.repl()
        for device in (_HEAP_DEVICE, _DEVICE) if counts(spec) else (_HEAP_DEVICE,):
            _, err = board.run(device.read_text())
            if err:
                raise LifeboatError("bench", f"{device.name} failed on the board: {err.strip()}")
        yield Bench(board, plan_for(spec))


def _make_regions(spec: BoardSpec, paths: Sequence[Path], size: int) -> None:
    need = region.slot_size_for(spec.flash_size, spec.block_size)
    with ExitStack() as stack:
        for path in paths:
            with open(path, "wb") as file:
                try:
                    file.truncate(size)
                except OSError as error:
                    raise LifeboatError(
                        "bench-disk",
                        f"{path}: {size} bytes, sparse: {error.strerror}",
                        "put the cache on a file system with large files: set LIFEBOAT_CACHE",
                    ) from None
        disks = [stack.enter_context(Disk(path, write=True)) for path in paths]
        for disk, header in zip(disks, region.new_set(disks, region.TAIL, need=need)):
            region.create(disk, header)


# --- the measurements ----------------------------------------------------------------------


def inspection_rows(bench: Bench, spec: BoardSpec) -> Iterator[Row]:
    """How long it takes to look at code that is healthy."""
    per_byte = 1 / bench.plan.inspected
    inspection = bench.insn("inspection()") * per_byte
    what = "inspection, CRC-32 of every block"
    if _mapped(spec):
        every_word = bench.insn("every_word()") * per_byte
        note = "floor: every word read and XORed"
        yield Row("inspection", what, "insn/B", inspection, every_word, limit=5.6, note=note)
        return
    parts = bench.ask("serial_parts()")
    floor = parts["bus"] + parts["crc32"]
    note = "floor: transfer loop and CRC loop"
    yield Row("inspection", what, "insn/B", inspection, floor, times_floor=1.10, note=note)
    yield Row(
        "transfer loop",
        "  of these: transfer loop, SPI.readinto()",
        "insn/B",
        parts["bus"],
        floor=_SPI_FLOOR,
        limit=6,
        note="floor: quoted, two MMIO reads per byte",
    )
    yield Row("CRC loop", "  of these: CRC-32 loop", "insn/B", parts["crc32"])
    piece = _bytes(spec.block_size)
    what = f"flash driver, readblocks() of {piece}"
    yield Row("flash read", what, "insn/B", parts["readblocks"], floor=parts["bus"])


def signature_rows(bench: Bench, per_byte: float) -> Iterator[Row]:
    """What it costs that only what the owner signed runs, by default and when paranoid."""
    key = LmsPrivateKey(lms_sha256_m24_h10, lmots_sha256_n24_w4)
    message = random.Random(2).randbytes(8192)
    parts = [key.publicKey().serialize(), key.sign(message), message]
    found = bench.ask(f"signature({', '.join(map(repr, parts))})")
    yield Row(
        "signature",
        "signature, LMS_SHA256_M24_H10 with W4",
        "M insn",
        found["insn"] / 1e6,
        floor=found["floor"] / 1e6,
        times_floor=1.5,
        note=f"floor: its {found['hashes']} hashes, over 8 KB",
    )
    yield Row(
        "paranoid",
        "inspection, CRC-32 and SHA-256",
        "insn/B",
        bench.insn("paranoid()") * per_byte,
        floor=bench.insn("digests()") * per_byte,
        note="floor: SHA-256 of every block",
    )


def counts(spec: BoardSpec) -> bool:
    """Whether the board's emulator counts instructions."""
    return spec.emulator == board_spec.QEMU


def _mapped(spec: BoardSpec) -> bool:
    """Whether the board's code flash is memory, too."""
    return spec.flash_kind == "pflash"


def _bytes(size: int) -> str:
    return f"{size // _MB} MB" if size >= _MB else f"{size // _KB} KB"


def main_rows(bench: Bench, spec: BoardSpec, heap_step: int) -> Iterator[Row]:
    """All that is measured on one board with a backup on each of its disks."""
    plan = bench.plan
    blocks = plan.code // spec.block_size
    per_byte = 1 / plan.code
    sha256 = bench.insn("digests()") * per_byte
    yield Row(
        "sha256",
        "SHA-256 of every block",
        "insn/B",
        sha256,
        floor=_SHA256_FLOOR,
        limit=70,
        note="floor: quoted, unrolled C",
    )

    yield from signature_rows(bench, per_byte)
    inspection = bench.insn("inspection()")
    first = bench.power_on()
    read = bench.ask("bytes_read()")
    healthy = bench.power_on_insn()
    members = len(first["commands"])
    commands = sum(first["commands"])
    yield Row(
        "healthy",
        "power-on but for its inspection, per member",
        "M insn",
        (healthy - inspection) / members / 1e6,
        floor=bench.disk_insn(f"small_reads({commands})") / members / 1e6,
        limit=plan.survey,
        note=f"floor: {commands // members} bare reads of 4 KB",
    )
    yield Row(
        "payload",
        "code blocks read from disk at it",
        "blocks",
        read // spec.block_size,
        limit=0,
        note=f"{read / members / _KB:.3g} KB per member in all",
    )

    bench.ask(f"erase(*range({blocks}))")
    restore = bench.insn("restore()")
    parts = bench.ask("restore_parts()")
    yield Row(
        "restore",
        f"full restore, all {blocks} blocks bad",
        "insn/B",
        restore * per_byte,
        floor=sum(parts.values()) * per_byte,
        times_floor=1.10,
        note="floor: its parts, each alone",
    )
    yield from _parts("restore", parts, per_byte)
    if _mapped(spec):
        yield Row(
            "restore, besides SHA-256",
            "full restore, besides its SHA-256",
            "insn/B",
            restore * per_byte - sha256,
            limit=14,
        )

    one_bad = []
    for block in range(plan.times):
        bench.ask(f"erase({block})")
        one_bad.append(bench.power_on()["insn"])
    yield Row(
        "one bad block",
        f"power-on with one bad block of {blocks}",
        "M insn",
        min(one_bad) / 1e6,
        floor=(inspection + restore / blocks) / 1e6,
        times_floor=plan.one_bad,
        note=f"floor: inspection + 1/{blocks} of restore",
    )

    one_command = bench.disk_insn(f"large_reads({plan.code}, {plan.code})") * per_byte
    for size, limit in plan.reads:
        yield Row(
            f"disk read, {_bytes(size)}",
            f"disk read, commands of {_bytes(size)}",
            "insn/B",
            bench.disk_insn(f"large_reads({size}, {plan.code})", 4) * per_byte,
            floor=one_command,
            limit=limit,
            note=f"floor: one command of {_bytes(plan.code)}",
        )

    if spec.disk_kind == "sata":
        yield Row(
            "command",
            "SATA command, besides the wait for it",
            "insn",
            bench.insn("commands()"),
            limit=15000,
            note="of 4 KB; as many for any length",
        )

    if heap_step or _mapped(spec):
        yield from _heap_rows(bench, spec, blocks, heap_step)

    backup = bench.ask("backup()")
    parts = {name: backup[name] for name in ("read flash", "write", "read back")}
    yield Row(
        "backup",
        "backup into a free slot, per member",
        "insn/B",
        backup["free slot"] * per_byte,
        floor=sum(parts.values()) * per_byte,
        times_floor=1.15,
        note="floor: its parts, each alone",
    )
    yield from _parts("backup", parts, per_byte)
    yield Row(
        "backup, old slot",
        "backup over an older one, per member",
        "insn/B",
        backup["old slot"] * per_byte,
        note="also reads the newest copy",
    )
    parity = bench.ask("parity()")
    yield Row(
        "parity",
        "parity of a backup, per member",
        "insn/B",
        parity["make"] * per_byte,
        note="of the code; one block for each 16",
    )
    yield Row(
        "parity, a block",
        "a block made from parity",
        "insn/B",
        parity["rebuild"] / spec.block_size,
        note=f"of that block, with {parity['group'] - 1} others out of flash",
    )


def _parts(whole: str, parts: dict[str, float], per_byte: float) -> Iterator[Row]:
    for name in sorted(parts, key=lambda name: -parts[name]):
        yield Row(f"{whole}, {name}", f"  of these: {name}", "insn/B", parts[name] * per_byte)


def _heap_rows(bench: Bench, spec: BoardSpec, blocks: int, step: int) -> Iterator[Row]:
    manifest_block = spec.flash_size // spec.block_size - 1
    erased = [*range(blocks), manifest_block]
    # What is not mapped into memory is inspected through a buffer.
    piece = 0 if _mapped(spec) else min(64 * _KB, spec.block_size)
    for key, what, bad, buffer, limit in (
        ("healthy", "heap, healthy power-on", [], piece, 48),
        ("recovery", "heap, all blocks and manifest bad", erased, piece + spec.block_size, 48),
    ):
        note = f"and buffers of {buffer // _KB} KB" if buffer else ""
        least = least_heap(bench, bad, buffer, limit * _KB, step) / _KB
        yield Row(f"heap, {key}", what, "KB", least, limit=limit, note=note)
    modules = bench.ask("modules()")
    note = "in use before, CRC tables included"
    yield Row("heap, modules", "modules on the heap", "KB", modules / _KB, note=note)


def least_heap(bench: Bench, erased: Sequence[int], buffer: int, goal: int, step: int) -> int:
    """The least free heap, beside a buffer, with which a power-on does all it should.

    Looked for in steps of so many bytes; step 0: `goal` itself when that is enough.
    """

    def enough(free: int) -> bool:
        found = bench.ask(f"try_heap({buffer + free}, {list(erased)})")
        return bool(
            found
            and found["verdict"] == "RUN"
            and not found["reasons"]
            and found["erases"] == len(erased)
        )

    if not step and enough(goal):
        return goal
    low, high = (0, goal) if step and enough(goal) else (goal, 3 * goal)
    while high - low > (step or 4 * _KB):
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    # What was enough once need not be so again: garbage lies where it lies. The last try also
    # leaves the flash whole.
    while not enough(high):
        high += step or 4 * _KB
        if high > 3 * goal:
            raise LifeboatError("bench", f"the power-on failed with {high} bytes of heap free")
    return high


def growth_rows(spec: BoardSpec) -> Iterator[Row]:
    """How costs grow with the flash, with the disks and with their number."""
    per_byte = []
    others = 1 + memory.blocks_for(spec.block_size)  # of the manifest and the memory
    for size in (8 * _MB, 16 * _MB, spec.flash_size - others * spec.block_size):
        with started(spec, size) as bench:
            per_byte.append(bench.insn("inspection()") / size)
    yield Row(
        "growth, flash",
        "inspection, 8 to 32 MB: spread",
        "%",
        (max(per_byte) / min(per_byte) - 1) * 100,
        limit=3,
        note=", ".join(f"{value:.4g}" for value in per_byte) + " insn/B",
    )

    def survey(members: int, disk_size: int = _DISK) -> float:
        with started(spec, _SMALL_CODE, members, disk_size) as bench:
            return bench.power_on_insn() - bench.insn("inspection()")

    costs = {members: survey(members) for members in (1, 3, 6)}
    huge = survey(1, 4 * _TB)
    yield Row(
        "growth, disk",
        "healthy power-on, 256 MB to 4 TiB disk",
        "%",
        abs(huge / costs[1] - 1) * 100,
        limit=5,
        note=f"{costs[1] / 1e6:.4g}, {huge / 1e6:.4g} M insn",
    )
    yield Row(
        "growth, members",
        "power-on but for its inspection, 6 members",
        "M insn",
        costs[6] / 1e6,
        limit=6 * costs[1] / 1e6,
        note=f"reach: 6 times one; 1: {costs[1] / 1e6:.4g}, 3: {costs[3] / 1e6:.4g}",
    )


# What takes time from power-on to the application, in its order.
_PHASES = {
    "micropython": "MicroPython starts, imports lifeboat",
    "bus": "bus scan, the disks' spin-up begins",
    "links": "links of the disks",
    "inspection": "inspection",
    "survey": "survey of the disks",
    "rest": "memory, backup looked at, journal",
    "report": "report, kept and printed",
    "mount": "the application is mounted",
}


def phase_rows(spec: BoardSpec, quick: bool) -> Iterator[Row]:
    """From power-on to the verdict and to the application, for several sizes of the code."""
    others = 1 + memory.blocks_for(spec.block_size)  # of the manifest and the memory
    largest = spec.flash_size - others * spec.block_size
    # Without disks nothing is waited for: what lifeboat does not take of it takes MicroPython.
    with started(spec, 2 * _MB, application=True) as bench:
        found = bench.ask("phases()")
        micropython = found.pop("application") - sum(found.values())
    for size in (2 * _MB,) if quick else (2 * _MB, 16 * _MB, largest):
        with started(spec, size, 1, application=True) as bench:
            phases = {"micropython": micropython, **bench.ask("phases()")}
        del phases["application"]
        total = sum(phases.values())
        yield Row(
            f"start, {_bytes(size)}",
            f"power-on to the application, {_bytes(size)}, one disk",
            "M insn",
            total / 1e6,
            note=f"to the verdict {(total - phases['mount']) / 1e6:.4g}",
        )
        for name, what in _PHASES.items():
            key = f"start, {_bytes(size)}, {name}"
            yield Row(key, f"  of these: {what}", "M insn", phases[name] / 1e6)


def module_sizes(plan: Plan) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of each module of lifeboat that a board freezes, for its processor.

    Those that a power-on needs, and those of the extras.
    """
    firmware = tree.root() / "firmware"
    needed: dict[str, int] = {}
    extras: dict[str, int] = {}

    # What a power-on needs is frozen without line numbers.
    def package(_: str, files: Iterable[str], opt: int = 0) -> None:
        for name in files:
            (needed if opt else extras)[name] = _mpy_size(
                firmware / "lifeboat" / name, opt, plan.march
            )

    drivers = f"{plan.drivers} {plan.bus}"
    options = SimpleNamespace(
        defaults=lambda **_: None, arch=plan.arch, drivers=drivers, extras=" ".join(_EXTRAS)
    )
    code = compile((firmware / "manifest.py").read_text(), "manifest.py", "exec")
    exec(code, {"options": options, "package": package})
    return needed, extras


def cross_compiler() -> Path:
    """MicroPython's mpy-cross, as set-up builds it."""
    return tree.cache() / "micropython" / "mpy-cross" / "build" / "mpy-cross"


def _mpy_size(source: Path, opt: int, march: str = "rv32imc") -> int:
    command = [
        str(cross_compiler()),
        f"-O{opt}",
        f"-march={march}",
        "-s",
        source.name,
        "-o",
        "-",
        str(source),
    ]
    try:
        return len(subprocess.run(command, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", b"").decode().strip() or str(error)
        raise LifeboatError("mpy-cross", f"{source}: {detail}", "run ./lifeboat setup") from None


def size_rows(plan: Plan, needed: dict[str, int], extras: dict[str, int]) -> Iterator[Row]:
    """Core and kernels; rows of their own: each driver, a bus that both drivers need, and what
    power-on can do without."""

    def driver(name: str) -> int:
        """With its hot loops, which are a module of their own."""
        modules = (f"drivers/{name}.", f"drivers/{name}_")
        return sum(size for module, size in needed.items() if module.startswith(modules))

    bus = sum(map(driver, plan.bus.split()))
    drivers = {name: driver(name) for name in plan.drivers.split()}
    core = sum(needed.values()) - bus - sum(drivers.values())
    if plan.arch != "rv32":  # the goals are for 32-bit RISC-V
        yield Row("size", "frozen size, core", "KB", core / _KB)
        for name, now in drivers.items():
            yield Row(f"size, {name}", f"frozen size, the driver {name}", "KB", now / _KB)
        yield Row("size, extras", "frozen size, extras", "KB", sum(extras.values()) / _KB)
        return
    before = sum(_DRIVERS[name] for name in drivers)
    limit = (_CORE_AND_DRIVERS - before) / _KB
    note = f"reach: 43 KB less {before} bytes of drivers"
    yield Row("size", "frozen size, core", "KB", core / _KB, limit=limit, note=note)
    for name, now in drivers.items():
        limit = (_DRIVERS[name] + _DRIVER_GROWTH) / _KB
        what = f"frozen size, the driver {name}"
        note = f"{now - _DRIVERS[name]:+} bytes"
        yield Row(f"size, {name}", what, "KB", now / _KB, limit=limit, note=note)
    if bus:
        yield Row("size, bus", "frozen size, the bus", "KB", bus / _KB)
    for key, names, limit in (
        ("signed", ("owner", "lms"), 6),
        ("lock", ("lock",), 3),
        ("stage", ("stage",), 5),
        ("update", ("update",), 5),
        ("trial", ("trial", "trying"), 8),
        ("parity", ("parity", "kernels_xor"), 5),
        ("evidence", ("evidence", "kernels_compare_rv32"), 5),
    ):
        size = sum(extras[f"{name}.py"] for name in names) / _KB
        what = f"frozen size, the extra {key}"
        yield Row(f"size, {key}", what, "KB", size, limit=limit)
    note = ", ".join(_EXTRAS)
    yield Row("size, extras", "frozen size, extras", "KB", sum(extras.values()) / _KB, note=note)


# --- the command ---------------------------------------------------------------------------


def measure(
    spec: BoardSpec, quick: bool = False, progress: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """All rows of the table.

    quick: of the heap, only whether the goal is enough; nothing where a restore takes long.
    """
    plan = plan_for(spec)
    rows = []

    def take(some: Iterable[Row]) -> None:
        for row in some:
            progress(row.what)
            rows.append(row)

    take(size_rows(plan, *module_sizes(plan)))
    if not counts(spec):
        with started(spec, plan.code, plan.members) as bench:
            step = 0 if quick else 4 * _KB
            take(_heap_rows(bench, spec, plan.code // spec.block_size, step))
        return rows
    with started(spec, plan.inspected) as bench:
        take(inspection_rows(bench, spec))
    with started(spec, plan.code, plan.members) as bench:
        take(main_rows(bench, spec, heap_step=0 if quick else _KB))
    if spec.disk_kind == "sata":
        take(growth_rows(spec))
    take(phase_rows(spec, quick))
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False, width=_WIDTH)
    for name in ("what", "unit", "floor", "reach", "here", "x floor", "", "note"):
        numeric = name in ("floor", "reach", "here", "x floor")
        table.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        verdict = {None: Text(""), True: Text("ok", "green"), False: Text("MISSED", "bold red")}
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        numbers = [_number(value) for value in (row.floor, row.reach, row.value)]
        table.add_row(row.what, row.unit, *numbers, ratio, verdict[row.ok], row.note)
    return table


def to_json(rows: Sequence[Row], modules: dict[str, int]) -> dict[str, Any]:
    """What `lifeboat bench --json` prints."""
    ok = all(row.ok is not False for row in rows)
    return {"ok": ok, "rows": [row.to_json() for row in rows], "modules": modules}


def main(arguments: Sequence[str]) -> int:
    """`lifeboat bench`. Returns the exit code: 3 when a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="lifeboat bench",
        description="Counts guest instructions on the QEMU board; docs/performance.md explains.",
        epilog="exit codes: 0 all goals reached, 1 error, 3 a goal was missed",
    )
    parser.add_argument("--board", default=board_spec.DEFAULT_BOARD, help="board id")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quick", action="store_true", help="of the heap, only try the goal")
    args = parser.parse_args(arguments)
    output = Output(json=args.json)
    spec = board_spec.load(args.board)
    with output.console.status("measuring") as status:
        rows = measure(spec, args.quick, status.update)
    needed, extras = module_sizes(plan_for(spec))
    modules = {**needed, **extras}
    missed = [row.key for row in rows if row.ok is False]
    output.show(_table(rows), "", "frozen modules, bytes:")
    output.show(", ".join(f"{name} {size}" for name, size in modules.items()), "")
    goals = sum(row.ok is not None for row in rows)
    output.show(f"{goals - len(missed)} of {goals} goals reached")
    output.result(to_json(rows, modules))
    return EXIT_DAMAGE if missed else EXIT_OK
