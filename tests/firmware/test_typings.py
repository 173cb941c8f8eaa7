"""The type stubs in firmware/typings say what the sources have."""

import ast

import pytest

from cpython_floor import ROOT

STUBS = ROOT / "firmware" / "typings" / "lifeboat"
SOURCES = ROOT / "firmware" / "lifeboat"
# What is only for type checkers.
PROTOCOLS = {"BlockDevice", "Board"}
# Where lifeboat/__init__.py takes its names from.
HOMES = {
    "power_on": "boot", "start": "boot", "report": "boot", "mount": "romfs", "segments": "romfs",
    "Report": "report", "LifeboatError": "errors", "confirm": "trial", "reject": "trial",
}  # fmt: skip


def definitions(body):
    """{name: arguments with their number of defaults} of functions and methods."""
    found = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args
            found[node.name] = (
                isinstance(node, ast.AsyncFunctionDef),
                [one.arg for one in arguments.posonlyargs + arguments.args],
                len(arguments.defaults),
                bool(arguments.vararg),
            )
        elif isinstance(node, ast.ClassDef):
            for name, value in definitions(node.body).items():
                found[f"{node.name}.{name}"] = value
    return found


@pytest.mark.parametrize("stub", sorted(STUBS.glob("*.pyi")), ids=lambda path: path.stem)
def test_each_stub_is_what_the_source_has(stub):
    declared = definitions(ast.parse(stub.read_text()).body)
    declared = {k: v for k, v in declared.items() if k.split(".")[0] not in PROTOCOLS}
    assert declared
    for name, signature in declared.items():
        home = HOMES[name.split(".")[0]] if stub.stem == "__init__" else stub.stem
        there = definitions(ast.parse((SOURCES / f"{home}.py").read_text()).body)
        assert there[name] == signature, name


def test_a_type_checker_tells_right_from_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("MYPYPATH", str(STUBS.parent))
    mypy = pytest.importorskip("mypy.api")
    script = tmp_path / "main.py"
    script.write_text(
        "import lifeboat\nfrom lifeboat.scrub import REPAIR, Scrubber\n"
        "def go(board: lifeboat.Board) -> bool:\n"
        "    Scrubber(board, policy=REPAIR, on_change=print).step(5)\n"
        "    return lifeboat.power_on(board).runs\n"
    )

    def run(path):
        options = ["--strict", "--no-incremental", "--cache-dir", str(tmp_path / "cache")]
        return mypy.run([*options, str(path)])

    out, _, code = run(script)
    assert code == 0, out
    script.write_text("import lifeboat\nlifeboat.power_on(5)\n")
    assert run(script)[2] == 1
