"""The import graph of the firmware runs one way, and firmware and host share no code."""

import ast

import pytest

from cpython_floor import ROOT

FIRMWARE = ROOT / "firmware" / "lifeboat"
HOST = ROOT / "host_tools" / "lifeboat_host"

# A module imports from the levels below its own only.
LEVELS = [
    # what people and applications call
    {"__init__", "agent", "partitioning"},
    {"agent_update"},
    {"stage"},
    {"update"},
    {"boot", "romfs", "scrub", "agent_disks", "lock"},
    {"extended"},
    {"trying"},
    # the flow at power-on, and the one in operation
    {"poweron", "patrol"},
    {"patrol_copies", "operation", "scrub_state"},
    {"trial"},
    {"evidence"},
    # policy: deciding and doing
    {"creating", "recovery", "parity"},
    {"checking", "inspecting"},
    # whom it is about, and who is told
    {"members", "userarea", "journal", "report"},
    # formats, and the one door to a manifest
    {"region", "trust"},
    {"records", "codeflash", "line", "owner"},
    {"manifest", "memory"},
    {"drivers.*"},
    {"drivers.*_"},
    {"mmio"},
    {"blockdev", "errors", "kernels", "drivers", "running", "advice", "lms"},
    {"kernels_plain", "kernels_rv32", "kernels_viper_crc"},
    {"kernels_copy", "kernels_xor", "kernels_compare", "kernels_compare_rv32"},
    {"kernels_viper"},
]


def level(name):
    """Return the level of a module; drivers share two: their own, and their hot loops'."""
    if name.startswith("drivers."):
        hot = name.endswith(("_plain", "_rv32", "_viper"))
        name = "drivers.*_" if hot else "drivers.*"
    return next(i for i, names in enumerate(LEVELS) if name in names)


# What MicroPython supplies, and the board: its own module.
BUILT_IN = {
    "array", "asyncio", "binascii", "board", "deflate", "errno", "hashlib", "io", "json",
    "machine", "micropython", "os", "select", "struct", "sys", "time", "uctypes", "vfs",
}  # fmt: skip


def name_of(path):
    name = ".".join(path.relative_to(FIRMWARE).with_suffix("").parts)
    return name[: -len(".__init__")] if name.endswith(".__init__") else name


def modules():
    return {name_of(path): path for path in sorted(FIRMWARE.rglob("*.py"))}


def imports(name, path):
    """Return (modules of lifeboat, other top modules) that a file imports, wherever it does."""
    own, other = set(), set()
    known = modules()

    def note(dotted, names=()):
        # from . import x, from .x import y, from lifeboat.x import y
        for candidate in (dotted + "." + n if dotted else n for n in names):
            if candidate in known:
                own.add(candidate)
                return
        own.add(dotted if dotted in known else "__init__")

    package = name.split(".")[:-1] if name != "__init__" else []
    if path.name == "__init__.py" and name != "__init__":
        package = name.split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "lifeboat":
                    note(".".join(alias.name.split(".")[1:]))
                else:
                    other.add(alias.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if node.level:
                base = package[: len(package) - node.level + 1]
                base += (node.module or "").split(".") if node.module else []
                for n in names:
                    note(".".join(base), [n])
            elif node.module.split(".")[0] == "lifeboat":
                for n in names:
                    note(".".join(node.module.split(".")[1:]), [n])
            else:
                other.add(node.module.split(".")[0])
    return own - {name}, other


def test_every_module_has_its_level():
    known = {name for name in modules() if not name.startswith("drivers.")}
    assert known == {n for names in LEVELS for n in names if not n.startswith("drivers.")}


@pytest.mark.parametrize("name", modules())
def test_imports_run_downwards_only(name):
    own, _ = imports(name, modules()[name])
    assert {n for n in own if level(n) <= level(name)} == set()


def test_there_are_no_circles():
    graph = {name: imports(name, path)[0] for name, path in modules().items()}
    while graph:
        leaves = {name for name, own in graph.items() if not own & set(graph)}
        assert leaves, graph
        for name in leaves:
            del graph[name]


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith("drivers")])
def test_drivers_are_handed_in_by_the_board(name):
    assert [n for n in imports(name, modules()[name])[0] if n.startswith("drivers")] == []


def test_background_work_does_not_reach_into_boots_globals():
    """What is under way has a room of its own: running. Only who powers on needs boot."""
    users = {name for name, path in modules().items() if "boot" in imports(name, path)[0]}
    assert users <= {"__init__", "agent", "partitioning"}


@pytest.mark.parametrize("name", modules())
def test_the_firmware_needs_nothing_but_micropython(name):
    assert imports(name, modules()[name])[1] <= BUILT_IN


# Host modules with this ending are sent to a board and run there.
ON_BOARD = "_device"


@pytest.mark.parametrize("path", sorted(HOST.rglob("*.py")), ids=lambda p: p.stem)
def test_the_host_tools_share_no_code_with_the_firmware(path):
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or ""] + [alias.name for alias in node.names]
    ours = [n for n in names if not n.startswith("rp2040py.")]
    assert not [n for n in ours if n.endswith(ON_BOARD)]
    if not path.stem.endswith(ON_BOARD):
        assert not [n for n in names if n.split(".")[0] in ("lifeboat", "firmware")]


def test_the_graph_is_read_rightly():
    """The test itself: imports of every form that the sources use are seen."""
    own, other = imports("boot", modules()["boot"])
    assert {"running", "poweron", "codeflash", "trust", "report"} <= own
    assert {"time", "machine"} <= other
    assert {"vfs", "os", "sys"} <= imports("romfs", modules()["romfs"])[1]
    poweron = imports("poweron", modules()["poweron"])[0]
    assert {"journal", "running", "checking", "creating"} <= poweron
    assert imports("region", modules()["region"])[0] >= {"blockdev", "records"}
    assert imports("drivers.cfi", modules()["drivers.cfi"])[0] == {"kernels", "mmio"}
    assert "kernels_rv32" in imports("kernels", modules()["kernels"])[0]
