"""Fuzz one target, led by the coverage of the firmware or of the host tools.

    python tests/fuzz/run.py TARGET --runs 100000 [--seconds 60] [--seed 1] [--keep]

It starts from the corpus of the target, tests/fuzz/corpus/TARGET.txt, an input a line in hex, and
prints a JSON line: how many inputs it ran, and what it found. An input that fails is printed with
the command that runs it again: run.py TARGET --input HEX. --keep adds to the corpus what reached
new lines.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = {"host_image", "host_region", "host_report"}


def corpus(target):
    """Return the kept inputs of a target."""
    path = HERE / "corpus" / f"{target}.txt"
    lines = path.read_text().split() if path.exists() else []
    return [bytes.fromhex(line) for line in lines]


def fuzz(target, arguments):
    """In a process of its own: libFuzzer ends the process."""
    import atheris

    package = "lifeboat_host" if target in PACKAGES else "lifeboat"
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "host_tools")]
    import cpython_floor

    cpython_floor.install()
    with atheris.instrument_imports(include=[package]):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def main():
    """Run the fuzzer on a copy of the corpus; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=10000)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--keep", action="store_true", help="add what is new to the corpus")
    parser.add_argument("--input", help="run just this input, in hex")
    parser.add_argument("--inner", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner is not None:
        return fuzz(args.target, args.inner)
    if args.input is not None:
        sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "host_tools")]
        import cpython_floor

        cpython_floor.install()
        from fuzz.targets import TARGETS

        TARGETS[args.target](bytes.fromhex(args.input))
        return 0
    with tempfile.TemporaryDirectory(prefix="lifeboat-fuzz.") as folder:
        seeds, found = Path(folder, "seeds"), Path(folder, "found")
        seeds.mkdir()
        found.mkdir()
        for i, data in enumerate(corpus(args.target)):
            (seeds / str(i)).write_bytes(data)
        options = [
            str(found), str(seeds), f"-runs={args.runs}", f"-max_total_time={args.seconds}",
            f"-seed={args.seed}", "-max_len=1024", "-timeout=60", "-rss_limit_mb=4096",
            f"-artifact_prefix={folder}/", "-print_final_stats=1",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, __file__, args.target, "--inner", *options],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        runs = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
        failing = [
            path.read_bytes() for path in Path(folder).iterdir()
            if path.name.startswith(("crash-", "timeout-", "oom-"))
        ]  # fmt: skip
        fresh = sorted((path.read_bytes() for path in found.iterdir()), key=len)
        if args.keep and not failing:
            keep(args.target, fresh)
    told = {
        "target": args.target,
        "runs": int(runs[1]) if runs else 0,
        "new": len(fresh),
        "failed": [data.hex() for data in failing],
    }
    print(json.dumps(told))
    if failing or not runs:
        print(done.stderr[-3000:], file=sys.stderr)
        for data in failing:
            print(f"again: python tests/fuzz/run.py {args.target} --input {data.hex()}")
        return 1
    return 0


def keep(target, fresh):
    """Add inputs to the corpus: short ones, a few hundred at most."""
    known = corpus(target)
    new = [data for data in fresh if data not in known and 0 < len(data) <= 400][
        : 300 - len(known)
    ]
    lines = sorted({data.hex() for data in known + new}, key=lambda line: (len(line), line))
    (HERE / "corpus").mkdir(exist_ok=True)
    (HERE / "corpus" / f"{target}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
