"""Commands that cannot be run."""

import pytest

from tokenturing.cli import main as cli


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command that cannot be run prints."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("tokenturing: ")
    assert "\n" not in line
    return line
