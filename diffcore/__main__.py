"""`python -m diffcore` is `diffcore`."""

from diffcore.cli import program

if __name__ == "__main__":
    program()
