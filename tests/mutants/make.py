"""Mutants of the firmware: guards removed, comparisons turned, orders swapped.

A mutant is named module:function:kind:n, the n-th place of that kind in a function, so that a
change elsewhere in the file leaves its name alone. tests/mutants/set.txt is the fixed set.

    python tests/mutants/make.py choose > tests/mutants/set.txt     a new set, evenly chosen
    python tests/mutants/make.py show NAME                          the lines that differ
"""

from __future__ import annotations

import ast
import difflib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "firmware" / "lifeboat"
SET = Path(__file__).with_name("set.txt")
WANTED = 200

# Their code runs on MicroPython only, or is a table of words.
_NOT = (
    "kernels_viper",
    "kernels_rv32",
    "kernels_copy",
    "kernels_compare",
    "kernels_xor",
    "advice",
)
_TURNED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_LEAVES = (ast.Raise, ast.Return, ast.Continue, ast.Break)


def modules():
    """Return the names of the modules that are mutated."""
    names = [
        path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")
    ]
    return sorted(
        name
        for name in names
        if not Path(name).name.startswith(_NOT) and not name.endswith(("_rv32", "__init__"))
    )


class _Places(ast.NodeVisitor):
    """All places of a module: (function, kind, the node, its number there)."""

    def __init__(self):
        self.found = []
        self._function = []
        self._count = {}

    def _add(self, kind, *node):
        name = ".".join(self._function)
        n = self._count[name, kind] = self._count.get((name, kind), -1) + 1
        self.found.append((name, kind, n, *node))

    def visit_ClassDef(self, node):  # noqa: N802
        self._inside(node)

    def visit_FunctionDef(self, node):  # noqa: N802
        self._inside(node)

    def _inside(self, node):
        self._function.append(node.name)
        self._bodies(node)
        self.generic_visit(node)
        self._function.pop()

    # Two calls after each other, whose order may matter.
    def _bodies(self, node):
        for body in [
            getattr(part, name, [])
            for part in ast.walk(node)
            for name in ("body", "orelse", "finalbody")
            if not isinstance(part, ast.Lambda)
        ]:
            if not isinstance(body, list):
                continue
            for i, pair in enumerate(zip(body, body[1:])):
                if all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) for s in pair):
                    if isinstance(node, ast.FunctionDef):
                        self._add("order", body, i)

    def visit_If(self, node):  # noqa: N802
        if isinstance(node.body[-1], _LEAVES) and self._function:
            self._add("guard", node)
        self.generic_visit(node)

    def visit_Compare(self, node):  # noqa: N802
        if self._function and type(node.ops[0]) in _TURNED:
            self._add("compare", node)
        self.generic_visit(node)

    def visit_BoolOp(self, node):  # noqa: N802
        if self._function:
            self._add("logic", node)
        self.generic_visit(node)


def places(module):
    """Return (syntax tree, places) of a module."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    visitor = _Places()
    visitor.visit(tree)
    return tree, visitor.found


def names(module):
    """Return the names of all mutants of a module."""
    return [f"{module}:{name}:{kind}:{n}" for name, kind, n, *_ in places(module)[1]]


def mutate(name):
    """Return (source without the fault, with it, the lines of the place) of a mutant."""
    module, function, kind, n = name.split(":")
    tree, found = places(module)
    before = ast.unparse(tree)
    those = [place[3:] for place in found if place[:3] == (function, kind, int(n))]
    if not those:
        raise SystemExit(f"{name}: no such place")
    node, *rest = those[0]
    if kind == "order":
        i = rest[0]
        lines = range(node[i].lineno, node[i + 1].end_lineno + 1)
        node[i], node[i + 1] = node[i + 1], node[i]
    else:
        part = node.test if kind == "guard" else node
        lines = range(part.lineno, part.end_lineno + 1)
        if kind == "guard":
            node.test = ast.Constant(False)
        elif kind == "compare":
            node.ops[0] = _TURNED[type(node.ops[0])]()
        else:
            node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    return before, ast.unparse(tree), lines


def choose():
    """Return a set: every so many of all places, in the order of modules and lines."""
    every = [name for module in modules() for name in names(module)]
    step = len(every) / WANTED
    return [every[int(i * step)] for i in range(WANTED)]


def fixed():
    """Return the names of the fixed set."""
    return SET.read_text().split()


if __name__ == "__main__":
    if sys.argv[1:] == ["choose"]:
        print("\n".join(choose()))
    elif sys.argv[1:2] == ["show"]:
        old, new, at = mutate(sys.argv[2])
        print(f"line {at[0]}")
        print("\n".join(difflib.unified_diff(old.split("\n"), new.split("\n"), lineterm="", n=2)))
    else:
        raise SystemExit(__doc__)
