"""`lifeboat bench`: what the board's code costs, held against the stated goals."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.table import Table
from rich.text import Text

from lifeboat_host import boards, image, region
from lifeboat_host.boards import BoardSpec
from lifeboat_host.disks import Disk
from lifeboat_host.errors import EXIT_DAMAGE, EXIT_OK, LifeboatError
from lifeboat_host.output import Output
from lifeboat_host.qemu import Board

_ICOUNT = "shift=0,sleep=off"  # an instruction is a nanosecond of the guest's clock
_DEVICE = Path(__file__).with_name("bench_device.py")
_KB, _MB, _TB = 1 << 10, 1 << 20, 1 << 40
_CODE = 16 * _MB
_DISK = 256 * _MB
# Where the code's size does not matter. Its inspection takes longer than empty SATA ports need to
# be told from slow disks, so that no power-on waits for them.
_SMALL_CODE = 8 * _MB
_WIDTH = 134  # of the table, also where the terminal is narrower
_TIMES = 3  # for what waits for a disk
_TIMEOUT = 300  # seconds for one measurement on the board

# docs/performance.md says where this figure comes from: it needs a C compiler for the board.
_SHA256_FLOOR = 60.0


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

    def __init__(self, board: Board) -> None:
        self.board = board

    def ask(self, call: str) -> Any:
        """The value that a call of the device half says. Raises LifeboatError bench."""
        out, err = self.board.run(call, timeout=_TIMEOUT)
        if err:
            raise LifeboatError("bench", f"{call} failed on the board: {err.strip()}")
        return json.loads(out.splitlines()[-1])

    def insn(self, call: str, times: int = 1) -> float:
        """Median of the instructions that a call counted."""
        return float(statistics.median(self.ask(call)["insn"] for _ in range(times)))

    def power_on(self) -> dict[str, Any]:
        """One power-on that must end well: {insn, commands, report}."""
        found: dict[str, Any] = self.ask("power_on()")
        if found["report"]["verdict"] == "RESCUE":
            raise LifeboatError("bench", f"the power-on failed: {found['report']}")
        return found

    def power_on_insn(self) -> float:
        return float(statistics.median(self.power_on()["insn"] for _ in range(_TIMES)))

    def bytes_read(self) -> int:
        """Bytes that the board has read from its disks since QEMU started."""
        return sum(device["stats"]["rd_bytes"] for device in self.board.qmp("query-blockstats"))


@contextmanager
def started(
    spec: BoardSpec, code_size: int, members: int = 0, disk_size: int = _DISK
) -> Iterator[Bench]:
    """A board with so much random code in its flash and a backup of it on so many disks."""
    with ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="bench.", dir=boards.cache())
        folder = stack.enter_context(scratch)
        flash = Path(folder, "flash.img")
        source = Path(folder, "os.bin")
        source.write_bytes(random.Random(1).randbytes(code_size))
        image.build(
            [image.Source("os", source)],
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
        board = stack.enter_context(Board(flash, drives, spec=spec, icount=_ICOUNT))
        report = board.power_on_report()
        states = [member["state"] for member in report["members"]]
        if states != ["created"] * members:
            raise LifeboatError("bench", f"no backup at the first power-on: {report}")
        board.repl()
        _, err = board.run(_DEVICE.read_text())
        if err:
            raise LifeboatError("bench", f"{_DEVICE.name} failed on the board: {err.strip()}")
        yield Bench(board)


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


def main_rows(bench: Bench, spec: BoardSpec, heap_step: int) -> Iterator[Row]:
    """All that is measured on one board with 16 MB of code and two members."""
    blocks = _CODE // spec.block_size
    per_byte = 1 / _CODE
    inspection = bench.insn("inspection()")
    yield Row(
        "inspection",
        "inspection, CRC-32 of every block",
        "insn/B",
        inspection * per_byte,
        floor=bench.insn("every_word()") * per_byte,
        limit=5.6,
        note="floor: every word read and XORed",
    )
    yield Row(
        "sha256",
        "SHA-256 of every block",
        "insn/B",
        bench.insn("digests()") * per_byte,
        floor=_SHA256_FLOOR,
        limit=90,
        note="floor: quoted, unrolled C",
    )

    before = bench.bytes_read()
    first = bench.power_on()
    read = bench.bytes_read() - before
    healthy = bench.power_on_insn()
    members = len(first["commands"])
    commands = sum(first["commands"])
    yield Row(
        "healthy",
        "power-on but for its inspection, per member",
        "M insn",
        (healthy - inspection) / members / 1e6,
        floor=bench.insn(f"small_reads({commands})", _TIMES) / members / 1e6,
        limit=3,
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
    yield from _parts("restore", parts)

    one_bad = []
    for block in range(_TIMES):
        bench.ask(f"erase({block})")
        one_bad.append(bench.power_on()["insn"])
    yield Row(
        "one bad block",
        f"power-on with one bad block of {blocks}",
        "M insn",
        statistics.median(one_bad) / 1e6,
        floor=(inspection + restore / blocks) / 1e6,
        times_floor=1.15,
        note=f"floor: inspection + 1/{blocks} of restore",
    )

    one_command = bench.insn(f"large_reads({_CODE}, {_CODE})", _TIMES) * per_byte
    for size, limit in ((4 * _MB, 0.02), (_MB, None)):
        yield Row(
            f"disk read, {size // _MB} MB",
            f"disk read, commands of {size // _MB} MB",
            "insn/B",
            bench.insn(f"large_reads({size}, {_CODE})", _TIMES) * per_byte,
            floor=one_command,
            limit=limit,
            note="floor: one command of 16 MB",
        )

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
    yield from _parts("backup", parts)
    yield Row(
        "backup, old slot",
        "backup over an older one, per member",
        "insn/B",
        backup["old slot"] * per_byte,
        note="also reads the newest copy",
    )


def _parts(whole: str, parts: dict[str, float]) -> Iterator[Row]:
    for name in sorted(parts, key=lambda name: -parts[name]):
        yield Row(f"{whole}, {name}", f"  of these: {name}", "insn/B", parts[name] / _CODE)


def _heap_rows(bench: Bench, spec: BoardSpec, blocks: int, step: int) -> Iterator[Row]:
    manifest_block = spec.flash_size // spec.block_size - 1
    erased = [*range(blocks), manifest_block]
    for key, what, bad, buffer, limit in (
        ("healthy", "heap, healthy power-on", [], 0, 48),
        ("recovery", "heap, all blocks and manifest bad", erased, spec.block_size, 64),
    ):
        note = f"and the buffer of {buffer // _KB} KB" if buffer else ""
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
    if not enough(high):  # and the flash is whole again
        raise LifeboatError("bench", f"the power-on failed with {high} bytes of heap free")
    return high


def growth_rows(spec: BoardSpec) -> Iterator[Row]:
    """How costs grow with the flash, with the disks and with their number."""
    per_byte = []
    for size in (8 * _MB, _CODE, spec.flash_size - spec.block_size):
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
        limit=2,
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


def module_sizes() -> dict[str, int]:
    """Bytes of each frozen module of lifeboat for 32-bit RISC-V, with one flash and one disk."""
    firmware = boards.root() / "firmware"
    names: list[str] = []

    def package(_: str, files: Iterable[str]) -> None:
        names.extend(files)

    options = SimpleNamespace(defaults=lambda **_: None, arch="rv32", drivers="cfi ahci")
    code = compile((firmware / "manifest.py").read_text(), "manifest.py", "exec")
    exec(code, {"options": options, "package": package})
    return {name: _mpy_size(firmware / "lifeboat" / name) for name in names}


def cross_compiler() -> Path:
    """MicroPython's mpy-cross, as set-up builds it."""
    return boards.cache() / "micropython" / "mpy-cross" / "build" / "mpy-cross"


def _mpy_size(source: Path) -> int:
    command = [str(cross_compiler()), "-march=rv32imc", "-s", source.name, "-o", "-", str(source)]
    try:
        return len(subprocess.run(command, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", b"").decode().strip() or str(error)
        raise LifeboatError("mpy-cross", f"{source}: {detail}", "run ./lifeboat setup") from None


def size_row(modules: dict[str, int]) -> Row:
    total = sum(modules.values())
    return Row("size", "frozen size, all modules", "KB", total / _KB, limit=40)


# --- the command ---------------------------------------------------------------------------


def measure(quick: bool = False, progress: Callable[[str], None] = lambda _: None) -> list[Row]:
    """All rows of the table. quick: of the heap, only whether the goal is enough."""
    spec = boards.load()
    rows = [size_row(module_sizes())]
    with started(spec, _CODE, members=2) as bench:
        for row in main_rows(bench, spec, heap_step=0 if quick else _KB):
            progress(row.what)
            rows.append(row)
    for row in growth_rows(spec):
        progress(row.what)
        rows.append(row)
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


def main(arguments: Sequence[str]) -> int:
    """`lifeboat bench`. Returns the exit code: 3 when a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="lifeboat bench",
        description="Counts guest instructions on the QEMU board; docs/performance.md explains.",
        epilog="exit codes: 0 all goals reached, 1 error, 3 a goal was missed",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quick", action="store_true", help="of the heap, only try the goal")
    args = parser.parse_args(arguments)
    output = Output(json=args.json)
    with output.console.status("measuring") as status:
        rows = measure(args.quick, status.update)
    modules = module_sizes()
    missed = [row.key for row in rows if row.ok is False]
    output.show(_table(rows), "", "frozen modules, bytes:")
    output.show(", ".join(f"{name} {size}" for name, size in modules.items()), "")
    goals = sum(row.ok is not None for row in rows)
    output.show(f"{goals - len(missed)} of {goals} goals reached")
    output.result({"ok": not missed, "rows": [row.to_json() for row in rows], "modules": modules})
    return EXIT_DAMAGE if missed else EXIT_OK
