"""What a command prints with --json, held to docs/schema.json."""

import json

import jsonschema

from lifeboat_host.base import tree

PAGE = json.loads((tree.root() / "docs" / "schema.json").read_text())
# What commands print; the other definitions are parts of them.
COMMANDS = {name for name, one in PAGE["$defs"].items() if "schema" in one.get("properties", {})}
_GROUPS = ("board", "image", "key", "region")  # their commands have two words


def check(name, value):
    """Hold what a command printed, or the object in it, to its description; the object."""
    if isinstance(value, str):
        value = json.loads(value)
    schema = {"$ref": f"#/$defs/{name}", "$defs": PAGE["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(value)
    return value


def check_output(arguments, out):
    """Hold what was printed to the description of the command with these arguments."""
    words = [str(argument) for argument in arguments]
    if "--json" not in words or not out:
        return
    value = json.loads(out)
    if set(value) == {"schema", "error"}:
        check("error", value)
    else:
        two = words[0] in _GROUPS or words[:2] == ["update", "stage"]
        check(" ".join(words[:2]) if two else words[0], value)
