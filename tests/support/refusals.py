from diffcore import cli


def refused(capsys, *arguments):
    """The one line that a mistake gets."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    return the_line(capsys.readouterr().err)


def the_line(said):
    """The one line of what was written to stderr that says what is wrong."""
    (line,) = [line for line in said.splitlines() if line.startswith("diffcore: ")]
    assert "Traceback" not in line
    assert line.isprintable()
    return line
