"""`lifeboat help TOPIC` and `lifeboat completion SHELL`."""

from __future__ import annotations

import argparse

import shtab
from rich.markdown import Markdown

from lifeboat_host.base import tree
from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.ui.output import Output

_SHELLS = ("bash", "zsh", "tcsh")


def add(
    commands: options.Commands, common: argparse.ArgumentParser, whole: argparse.ArgumentParser
) -> None:
    """Add the commands to the parser; whole: the parser that completion is for."""
    topic = commands.add_parser(
        "help", parents=[common], help="read a page of the documentation: lifeboat help format"
    )
    topic.add_argument("topic", nargs="?", help="a page of docs/; without one: which there are")
    topic.set_defaults(run=_help)
    shell = commands.add_parser(
        "completion",
        parents=[common],
        help="print what completes commands and options in a shell",
        description='For bash: eval "$(lifeboat completion bash)" in ~/.bashrc',
    )
    shell.add_argument("shell", choices=_SHELLS)
    shell.set_defaults(run=lambda args, output: _completion(args, output, whole))


def _completion(args: argparse.Namespace, output: Output, whole: argparse.ArgumentParser) -> int:
    script = shtab.complete(whole, shell=args.shell)
    if not output.json:
        print(script)
    output.result({"shell": args.shell, "script": script})
    return EXIT_OK


def _help(args: argparse.Namespace, output: Output) -> int:
    pages = {path.stem: path for path in sorted((tree.root() / "docs").glob("*.md"))}
    if args.topic is None:
        output.show("topics:", *(f"  {name}" for name in pages), "", "lifeboat help TOPIC")
        output.result({"topics": list(pages)})
        return EXIT_OK
    if args.topic not in pages:
        raise LifeboatError(
            "help-topic", f"there is no page about {args.topic!r}", f"topics: {', '.join(pages)}"
        )
    text = pages[args.topic].read_text(encoding="utf-8")
    output.show(Markdown(text))
    output.result({"topic": args.topic, "text": text})
    return EXIT_OK
