"""What is frozen and what mip installs are the files of the tree, under one version."""

import ast
import json
import types

import pytest

from cpython_floor import ROOT
from lifeboat_host.bench import measure

FIRMWARE = ROOT / "firmware"
TREE = sorted(p.relative_to(FIRMWARE).as_posix() for p in FIRMWARE.glob("lifeboat/**/*.py"))
KERNELS = {
    "rv32": {
        "kernels_viper.py", "kernels_rv32.py", "kernels_copy.py", "kernels_xor.py",
        "kernels_compare_rv32.py",
        "drivers/ahci_rv32.py", "drivers/sdspi_rv32.py", "drivers/sifive_spi_rv32.py",
    },
    "viper": {
        "kernels_viper.py", "kernels_viper_crc.py", "kernels_copy.py", "kernels_xor.py",
        "kernels_compare.py",
        "drivers/ahci_plain.py", "drivers/sdspi_plain.py", "drivers/sifive_spi_plain.py",
    },
    "": {
        "kernels_plain.py",
        "drivers/ahci_plain.py", "drivers/sdspi_plain.py", "drivers/sifive_spi_plain.py",
    },
}  # fmt: skip
# What belongs together comes by one name.
EXTRAS = {
    "advice": {"advice.py"},
    "agent": {"agent.py", "agent_disks.py", "line.py"},
    "evidence": {"evidence.py", "extended.py", "journal.py"},
    "journal": {"journal.py"},
    "lock": {"lock.py"},
    "parity": {"parity.py", "extended.py"},
    "partitioning": {"partitioning.py"},
    "scrub": {"scrub.py", "scrub_state.py", "patrol.py", "patrol_copies.py", "operation.py"},
    "romfs": {"romfs.py"},
    "signed": {"owner.py", "lms.py"},
    "update": {"update.py", "stage.py", "trial.py", "trying.py", "agent_update.py", "extended.py"},
    "userarea": {"userarea.py"},
}
EXTRA = {"lifeboat/" + name for names in EXTRAS.values() for name in names}
LOOPS = {"lifeboat/" + name for names in KERNELS.values() for name in names}
DRIVERS = [
    name
    for name in TREE
    if "/drivers/" in name and not name.endswith("__init__.py") and name not in LOOPS
]


def packages(**chosen):
    """Run manifest.py as MicroPython's manifest reader does; return [(files, how optimized)]."""

    class Options(types.SimpleNamespace):
        def defaults(self, **values):
            for name, value in values.items():
                setattr(self, name, chosen.get(name, value))
            assert set(chosen) <= set(values)

    found = []

    def package(name, files, opt=None):
        assert name == "lifeboat"
        found.append((["lifeboat/" + file for file in files], opt))

    names = {"options": Options(), "package": package}
    exec(compile((FIRMWARE / "manifest.py").read_text(), "manifest.py", "exec"), names)
    return found


def frozen(**chosen):
    """Return the files that are frozen."""
    files = [file for files, _ in packages(**chosen) for file in files]
    assert len(files) == len(set(files))
    return sorted(files)


def version_in(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__":
            return node.value.value
    return None


@pytest.mark.parametrize("arch", KERNELS)
def test_the_manifest_freezes_the_tree_with_the_kernels_of_one_architecture(arch):
    own = {"lifeboat/" + name for name in KERNELS[arch]}
    drivers = " ".join(name.split("/")[-1][:-3] for name in DRIVERS)
    want = [name for name in TREE if name not in LOOPS or name in own]
    assert frozen(arch=arch, drivers=drivers, extras=" ".join(EXTRAS)) == want


def test_a_board_freezes_only_the_drivers_it_names():
    named = [name for name in frozen(drivers="cfi") if name in DRIVERS]
    assert named == ["lifeboat/drivers/cfi.py"]
    assert not set(frozen()) & set(DRIVERS)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_all_that_belongs_to_it(extra):
    assert set(frozen(extras=extra)) & EXTRA == {"lifeboat/" + name for name in EXTRAS[extra]}


def test_a_board_freezes_only_the_extras_it_names():
    assert not set(frozen()) & EXTRA
    assert set(frozen(extras="journal scrub")) & EXTRA == {
        "lifeboat/journal.py", "lifeboat/operation.py", "lifeboat/patrol.py",
        "lifeboat/patrol_copies.py", "lifeboat/scrub.py", "lifeboat/scrub_state.py",
    }  # fmt: skip


def test_what_a_power_on_needs_is_frozen_without_line_numbers_and_the_extras_with_them():
    """They are 7 % of it; what goes wrong there is told by a code. An extra gives tracebacks."""
    for files, opt in packages(drivers="cfi", extras=" ".join(EXTRAS)):
        assert opt == (None if set(files) & EXTRA else 3), files
        assert not opt or not set(files) & EXTRA


def imported(name):
    """Return (modules that a file can't be imported without, modules that it tries to import, or
    imports in a function)."""
    tree = ast.parse((FIRMWARE / name).read_text())
    optional = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try | ast.FunctionDef)
        for part in node.body  # not what is done when the import fails
        for n in ast.walk(part)
    }
    needs, tries = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            # from .module import name; from . import module
            folder = name.split("/")[:-1][: len(name.split("/")) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for module in names:
                path = "/".join([*folder, *module.split(".")]) + ".py"
                (tries if id(node) in optional else needs).add(path)
    return needs, tries


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_whatever_is_frozen_has_what_it_needs(extra):
    """A board without an extra starts without it. A lock is for a board with keys."""
    files = set(frozen(extras="signed lock" if extra == "lock" else extra))
    for name in files:
        needs, _ = imported(name)
        assert needs <= files, name


def test_what_may_be_missing_is_seen_by_the_test():
    assert imported("lifeboat/report.py") == (set(), {"lifeboat/advice.py"})
    assert "lifeboat/journal.py" in imported("lifeboat/poweron.py")[1]
    assert {"lifeboat/running.py", "lifeboat/poweron.py"} <= imported("lifeboat/boot.py")[0]


def test_mip_installs_the_tree():
    package = json.loads((FIRMWARE / "package.json").read_text())
    assert set(package) == {"urls", "deps", "version"}
    assert package["urls"] == [[name, name] for name in TREE]
    assert package["deps"] == []


def test_there_is_one_version():
    package = json.loads((FIRMWARE / "package.json").read_text())["version"]
    assert version_in(FIRMWARE / "lifeboat" / "__init__.py") == package
    assert version_in(ROOT / "host_tools" / "lifeboat_host" / "__init__.py") == package


def frozen_size(*drivers):
    """Bytes of these drivers as a board for 32-bit RISC-V freezes them."""
    return sum(
        measure._mpy_size(FIRMWARE / "lifeboat" / "drivers" / f"{name}.py", 3) for name in drivers
    )


@pytest.mark.parametrize("host", ["ohci", "max3421"])
def test_a_usb_disk_and_its_host_take_8_kb_at_most(host):
    if not measure.cross_compiler().is_file():
        pytest.skip("mpy-cross is not built: run ./lifeboat setup")
    assert frozen_size("usbmsc", host) <= 8192
