"""The numbers of a board."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.tree import cache, root

DEFAULT_BOARD = "qemu_virt"
QEMU, RP2040PY = "qemu", "rp2040py"  # emulators
UNSIGNED, SIGNED = "unsigned", "signed"  # folders of boards/policies


@dataclass(frozen=True)
class BoardSpec:
    """A board as its board.json describes it; sizes in bytes.

    emulator: what runs it; qemu and machine are QEMU's. flash_kind: pflash, mtd, or port, which is
    the chip's own flash; flash_size is the part for embedded code. disk_kind: sata, sd;
    with_usb(): usb. boot_base: where the machine's RAM stands in for the boot stage's flash; None
    when that is a pflash too. policy: which code its boot stage runs.
    """

    id: str
    name: str
    product: str
    flash_size: int
    block_size: int
    qemu: str = ""
    machine: tuple[str, ...] = ()
    flash_kind: str = "pflash"
    disk_kind: str = "sata"
    boot_base: int | None = None
    policy: str = UNSIGNED
    emulator: str = QEMU

    def with_usb(self) -> BoardSpec:
        """The board with USB disks where it has SATA disks."""
        if self.disk_kind == "sd":
            raise LifeboatError("board-drives", f"{self.id} has no USB", "take --board qemu_virt")
        return replace(self, disk_kind="usb")

    @property
    def firmware(self) -> Path:
        """The boot stage that the launcher built."""
        path = cache() / "boards" / f"{self.id}-{self.policy}" / "firmware.bin"
        if not path.is_file():
            raise LifeboatError(
                "no-firmware",
                f"{path}: the board's firmware is not built",
                "run ./lifeboat setup in the source tree"
                if self.emulator == QEMU
                else f"run ./lifeboat setup --board {self.id} in the source tree",
            )
        return path


def load(board: str = DEFAULT_BOARD, policy: str = UNSIGNED) -> BoardSpec:
    """The board of that id, from boards/<id>/board.json; `qemu_` may be left out."""
    path = root() / "boards" / board / "board.json"
    if not path.exists() and not board.startswith("qemu_"):
        path = root() / "boards" / f"qemu_{board}" / "board.json"
    try:
        data = json.loads(path.read_text())
        return BoardSpec(
            id=data["id"],
            name=data["name"],
            product=data["product"],
            flash_size=int(data["flash_size"]),
            block_size=int(data["block_size"]),
            qemu=data.get("qemu", ""),
            machine=tuple(data.get("machine", ())),
            emulator=data.get("emulator", QEMU),
            flash_kind=data["flash_kind"],
            disk_kind=data["disk_kind"],
            boot_base=data.get("boot_base"),
            policy=policy,
        )
    except FileNotFoundError:
        known = sorted(p.parent.name for p in (root() / "boards").glob("*/board.json"))
        raise LifeboatError(
            "no-board", f"no board {board!r}", f"boards: {', '.join(known) or 'none'}"
        ) from None
    except (ValueError, KeyError) as error:
        raise LifeboatError("board-json", f"{path}: {error!r}", "mend the file") from None
