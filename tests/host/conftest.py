"""The floor of the host tools: everything here needs nothing but Python packages."""

import pytest
from described import check_output


@pytest.fixture
def lifeboat(capsys):
    """Run the command; gives (exit code, standard output, standard error)."""
    from lifeboat_host.commands.main import main

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        check_output(arguments, captured.out)
        return code, captured.out, captured.err

    return run


@pytest.fixture
def connected(lifeboat, monkeypatch, capsys, tmp_path):
    """Connect a board out of fakes; gives what runs a command on it: (exit code, its result)."""
    from wire import connector

    return connector(lifeboat, monkeypatch, capsys, tmp_path)
