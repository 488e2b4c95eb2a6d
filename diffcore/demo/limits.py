"""How much a visitor of the page may ask for, so that none of them exhausts the memory or the time of the machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of a page.

    * `samples`: samples in a request.
    * `steps`: steps of the solver.
    * `numbers`: numbers in the states of a request, all samples together.
    * `larger`: how many times as many numbers as in training a sample may have.
    * `waiting`, `waiting_of_one`: requests that wait, in all and of one visitor.
    * `connections`: open connections; a request beyond them is answered with the status 503.
    * `visitors`: visitors that are remembered; the one that was away longest is forgotten for a new one.
    * `results`, `kept`, `files`: results, kept samples and files of a visitor; the oldest of them are deleted.
    * `result_bytes`: characters of the fragments that show the results of a visitor, and of those that are kept.
    * `file_bytes`: bytes of a file, also after it is decompressed; `body_bytes`: those of any other request.
    """

    samples: int = 64
    steps: int = 1000
    numbers: int = 2**22
    larger: int = 16
    waiting: int = 32
    waiting_of_one: int = 4
    connections: int = 64
    visitors: int = 8
    results: int = 12
    kept: int = 100
    files: int = 6
    result_bytes: int = 2**24
    file_bytes: int = 2**25
    body_bytes: int = 2**16
