from diffcore import cli


def refused(capsys, *arguments):
    """The one line that a mistake gets."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffcore: ")]
    assert "Traceback" not in line
    return line
