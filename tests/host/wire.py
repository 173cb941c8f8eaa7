"""A connected board out of fakes: the commands talk to the board's own agent, in a thread."""

import importlib
import json
import random
import re
import threading

import fakes.deflate  # noqa: F401 - the agent needs it
from lifeboat import agent as agents
from lifeboat import boot, running
from lifeboat import line as lines
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.board import board_disk
from lifeboat_host.commands import provision


class Pipe:
    """Bytes from one thread to another."""

    def __init__(self):
        self._bytes = bytearray()
        self._more = threading.Condition()

    def put(self, data):
        with self._more:
            self._bytes += data
            self._more.notify()

    def get(self, size):
        with self._more:
            assert self._more.wait_for(lambda: len(self._bytes) >= size, 10), "nobody writes"
            data = bytes(self._bytes[:size])
            del self._bytes[:size]
            return data


class Line(lines.Line):
    """The board's end of the wire."""

    def __init__(self, wire):
        self._wire = wire

    def guard(self, on):
        pass

    def read(self, buf):
        buf[:] = self._wire.to_board.get(len(buf))

    def write(self, data):
        self._wire.to_host.put(data)

    def drain(self):
        self._wire.to_board = Pipe()


class Wire:
    """Instead of a Link: the agent runs in a thread of its own."""

    port = "wire"

    def __init__(self, board):
        self._board = board
        self._agent = self._call = None
        self._said = []
        self.to_board, self.to_host = Pipe(), Pipe()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def print(self, *what):
        self._said.append(" ".join(map(str, what)) + "\n")

    def exec(self, code, timeout):
        assert "_agent = Agent(board)" in code
        self._agent = agents.Agent(self._board, Line(self))
        return ""

    def begin(self, code):
        name, *args = eval(re.fullmatch(r"_agent\.call(\(.*\))", code)[1].replace(")", ",)", 1))
        self._said.clear()
        self._error = None
        self._call = threading.Thread(target=self._run, args=(name, *args), daemon=True)
        self._call.start()

    def _run(self, name, *args):
        try:
            self._agent.call(name, *args)
        except Exception as error:  # on a board: a traceback
            self._error = error

    def read(self, size, timeout):
        return self.to_host.get(size)

    def answer(self, timeout, wanted):
        said = self.read(1, timeout)
        if said in wanted:
            return said
        raise self.garbled(f"{said!r}")

    def write(self, data):
        self.to_board.put(data)

    def end(self, timeout):
        self._call.join(10)
        if self._error:
            said = f"{type(self._error).__name__}: {self._error}"
            raise LifeboatError("link-device", f"{self.port}: Traceback: {said}")
        return self.spoil("".join(self._said))

    def spoil(self, said):
        """For tests: what arrives instead."""
        return said

    def reset(self, timeout):
        return json.loads(json.dumps(boot.power_on(self._board).data))

    def garbled(self, what):
        return LifeboatError("link-garbled", what)


ODD = (None, True, 0, -1, 1 << 80, 0.5, "", "..", "/dev/sda", [], [[]], {}, {"a": 1})


class Liar(Wire):
    """Its answer number `when` is odd in one place."""

    def __init__(self, board, seed):
        super().__init__(board)
        self.rng = random.Random(seed)
        self.when = self.rng.randrange(8)

    def spoil(self, said):
        self.when -= 1
        if self.when != -1:
            return said
        answer = json.loads(said.strip().split("\n")[-1].removeprefix("agent: "))
        places = list(self.places(answer))
        where, key = self.rng.choice(places)
        if isinstance(where, dict) and self.rng.random() < 0.3:
            del where[key]
        else:
            where[key] = self.rng.choice(ODD)
        return "agent: " + json.dumps(answer)

    def places(self, value):
        keys = range(len(value)) if isinstance(value, list) else list(value)
        for key in keys:
            yield value, key
            if isinstance(value[key], (list, dict)):
                yield from self.places(value[key])


def connector(lifeboat, monkeypatch, capsys, tmp_path):
    """For the fixture `connected`."""
    monkeypatch.setattr(running, "attended", False)
    monkeypatch.setattr(running, "places", ())
    images = {}

    def image(code):
        if code not in images:
            images[code] = tmp_path / f"{len(images)}.img"
            images[code].write_bytes(code)
        return images[code]

    def connect(board, wire=None):
        wire = wire or Wire(board)
        for module in (provision, board_disk):
            monkeypatch.setattr(module, "Link", lambda port: wire)
        said = [
            importlib.import_module("lifeboat." + name) for name in ("report", "advice", "trial")
        ]
        for module in (agents, boot, *said):
            monkeypatch.setattr(module, "print", wire.print, raising=False)

        def run(name, *arguments, code=None):
            capsys.readouterr()
            given = ["--image", image(code)] if code else []
            exit_code, out, _ = lifeboat(
                *name.split(), "--port", "-", *given, *arguments, "--json"
            )
            return exit_code, json.loads(out)

        return run

    return connect
