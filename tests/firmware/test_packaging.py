"""What is frozen and what mip installs are the files of the tree, under one version."""

import ast
import json
import types

import pytest

from cpython_floor import ROOT

FIRMWARE = ROOT / "firmware"
TREE = sorted(p.relative_to(FIRMWARE).as_posix() for p in FIRMWARE.glob("lifeboat/**/*.py"))
KERNELS = {
    "rv32": {"kernels_viper.py", "kernels_rv32.py"},
    "viper": {"kernels_viper.py", "kernels_viper_crc.py"},
    "": {"kernels_plain.py"},
}
EXTRAS = [
    "lifeboat/agent.py",
    "lifeboat/journal.py",
    "lifeboat/line.py",
    "lifeboat/partitioning.py",
    "lifeboat/scrub.py",
]
DRIVERS = [name for name in TREE if "/drivers/" in name and not name.endswith("__init__.py")]


def frozen(**chosen):
    """Run manifest.py as MicroPython's manifest reader does; return the files it names."""

    class Options(types.SimpleNamespace):
        def defaults(self, **values):
            for name, value in values.items():
                setattr(self, name, chosen.get(name, value))
            assert set(chosen) <= set(values)

    packages = []

    def package(name, files, **_):
        packages.append((name, files))

    names = {"options": Options(), "package": package}
    exec(compile((FIRMWARE / "manifest.py").read_text(), "manifest.py", "exec"), names)
    ((name, files),) = packages
    assert name == "lifeboat" and len(files) == len(set(files))
    return sorted("lifeboat/" + file for file in files)


def version_in(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__":
            return node.value.value
    return None


@pytest.mark.parametrize("arch", KERNELS)
def test_the_manifest_freezes_the_tree_with_the_kernels_of_one_architecture(arch):
    every = {"lifeboat/" + name for names in KERNELS.values() for name in names}
    own = {"lifeboat/" + name for name in KERNELS[arch]}
    drivers = " ".join(name.split("/")[-1][:-3] for name in DRIVERS)
    want = [name for name in TREE if name not in every or name in own]
    extras = " ".join(name.split("/")[-1][:-3] for name in EXTRAS)
    assert frozen(arch=arch, drivers=drivers, extras=extras) == want


def test_a_board_freezes_only_the_drivers_it_names():
    named = [name for name in frozen(drivers="cfi") if name in DRIVERS]
    assert named == ["lifeboat/drivers/cfi.py"]
    assert not set(frozen()) & set(DRIVERS)


def test_a_board_freezes_only_the_extras_it_names():
    assert [name for name in frozen(extras="journal") if name in EXTRAS] == ["lifeboat/journal.py"]
    assert not set(frozen()) & set(EXTRAS)


def test_mip_installs_the_tree():
    package = json.loads((FIRMWARE / "package.json").read_text())
    assert set(package) == {"urls", "deps", "version"}
    assert package["urls"] == [[name, name] for name in TREE]
    assert package["deps"] == []


def test_there_is_one_version():
    package = json.loads((FIRMWARE / "package.json").read_text())["version"]
    assert version_in(FIRMWARE / "lifeboat" / "__init__.py") == package
    assert version_in(ROOT / "host_tools" / "lifeboat_host" / "__init__.py") == package
