"""The rooms of host_tools stand on floors: imports lead down, and never in a circle."""

import ast

import pytest

from lifeboat_host.base import tree

PACKAGE = tree.root() / "host_tools" / "lifeboat_host"
# A room imports rooms of lower floors only.
FLOORS = {
    "base": 0,
    "disk": 1,
    "model": 2,
    "signing": 3,
    "qemu": 3,
    "reserve": 3,
    "pico": 4,
    "ui": 4,
    "board": 5,
    "commands": 6,
    "bench": 7,
}


def rooms():
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def imported(path):
    """The rooms that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module]
            if node.module == "lifeboat_host":
                names = [f"lifeboat_host.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "lifeboat_host" and len(parts) > 1 and parts[1] in FLOORS:
                yield parts[1]


def test_every_room_has_a_floor_and_says_what_it_is_for():
    assert rooms() == sorted(FLOORS)
    for room in rooms():
        assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", FLOORS)
def test_imports_lead_down(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for other in imported(path):
            assert other == room or FLOORS[other] < FLOORS[room], f"{path.name} imports {other}"


def test_modules_of_a_room_do_not_import_each_other_in_a_circle():
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "lifeboat_host"
            ):
                graph[name] |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    left = {name: {other for other in seen if other in graph} for name, seen in graph.items()}
    while left:
        free = [name for name, seen in left.items() if not seen & left.keys() - {name}]
        assert free, f"a circle among {sorted(left)}"
        for name in free:
            del left[name]


def test_a_reservation_needs_neither_arguments_nor_a_terminal():
    text = (PACKAGE / "reserve" / "session.py").read_text()
    assert not {"argparse", "ui", "commands", "board"} & set(
        imported(PACKAGE / "reserve/session.py")
    )
    assert "argparse" not in text and "print(" not in text
