#!/bin/sh
# Refresh the locked Python packages, host_tools/requirements-*.txt, from what pyproject.toml allows:
#
#     host_tools/lock.sh            newest versions that are allowed
#     host_tools/lock.sh --check    are they what pyproject.toml allows? changes nothing
#
# Each version stands there with the SHA-256 of its files, for every Python that lifeboat supports.
# Look at the difference before it is committed, and run ./lifeboat test.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" --quiet --disable-pip-version-check install uv

# The groups of pyproject.toml, and what builds our own package and those without wheels.
"$tools/venv/bin/python3" - "$tools" <<'PYTHON'
import pathlib, sys

try:
    import tomllib
except ImportError:
    sys.exit("lock.sh needs Python 3.11 or newer")
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
groups = {
    "build": [*project["build-system"]["requires"], "wheel"],
    "run": project["project"]["dependencies"],
    **project["project"]["optional-dependencies"],
}
for name, lines in groups.items():
    pathlib.Path(sys.argv[1], f"{name}.in").write_text("\n".join(lines) + "\n")
PYTHON

lock() {
    name=$1
    shift
    target=host_tools/requirements-$name.txt
    new=$tools/$name.txt
    [ "$upgrade" = yes ] || [ ! -f "$target" ] || cp "$target" "$new"
    "$tools/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-header \
        --no-annotate --no-emit-index-url --python-version "$python" "$@" \
        --output-file "$new" "$tools/$name.in"
    { echo "# Made by host_tools/lock.sh; do not change by hand."; cat "$new"; } >"$new.whole"
    if [ "$upgrade" = yes ]; then
        cp "$new.whole" "$target"
    elif ! cmp -s "$new.whole" "$target"; then
        echo "$target is not what pyproject.toml allows: run host_tools/lock.sh" >&2
        exit 1
    fi
}

upgrade=yes
[ "${1-}" != --check ] || upgrade=no
python=3.9
lock build
lock run
lock test --constraint host_tools/requirements-run.txt
python=3.11
lock fuzz --constraint host_tools/requirements-run.txt
lock pico --constraint host_tools/requirements-run.txt
lock ansible
