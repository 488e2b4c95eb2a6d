"""Long reading that goes on where it was interrupted: what has been read of a file is cached block by block."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count, islice

import numpy

from diffcore_molecule.data.collection import Collection, Entry
from diffcore_molecule.data.conformers import Request
from diffcore_molecule.data.store import Parsed, parsed, place_of, read_parsed, write_parsed
from diffcore_molecule.timeout_pool import Failed, Timeout

BLOCK = 500
"""The number of records or lines in a block."""
Outcome = list[Entry] | Timeout | Failed
Work = Callable[[Iterator[Request]], Iterable[tuple[Request, Outcome]]]
"""What reads the molecules of requests, in their order."""


def read_blocks(
    key: str, requests: Iterable[Request], work: Work, go_on: Callable[[int, int, int], bool]
) -> list[Parsed]:
    """The molecules of all requests, in parts of `BLOCK` requests.

    A block is cached under `key` as soon as the next one begins, and is not read again. Only the entries of one block
    are in memory as objects; the others are arrays. After each request, `go_on(requests, molecules, left_out)` is
    called with the numbers so far; reading stops when it is False.
    """
    found: dict[int, Parsed] = {}
    handed_out: deque[int] = deque()  # the block of each request whose result has not come
    rest = iter(requests)
    handled = molecules = left_out = 0

    def keep(number: int, block: Parsed) -> None:
        nonlocal molecules, left_out
        found[number] = block
        molecules, left_out = molecules + len(block), left_out + len(block.left_out)

    def missing() -> Iterator[Request]:
        nonlocal handled
        for number in count():
            if not (block := list(islice(rest, BLOCK))):
                return
            if len(block) == BLOCK and (known := read_parsed(place_of(_key(key, number)))) is not None:
                keep(number, known)
                handled += BLOCK
                continue
            for request in block:
                handed_out.append(number)
                yield request

    current, entries, failed = -1, list[Entry](), list[tuple[int, str]]()
    for request, outcome in work(missing()):
        if (number := handed_out.popleft()) != current:
            if current >= 0:
                keep(current, parsed(entries, failed))
                write_parsed(place_of(_key(key, current)), found[current])
            current, entries, failed = number, [], []
        if isinstance(outcome, Timeout | Failed):
            failed.append((request.source, str(outcome)))
        else:
            entries.extend(outcome)
        handled += 1
        if not go_on(handled, molecules + len(entries), left_out + len(failed)):
            break
    if current >= 0:
        keep(current, parsed(entries, failed))
    return [found[number] for number in sorted(found)]


def forget_blocks(key: str, blocks: int) -> None:
    """Remove the first `blocks` blocks from the cache, when the whole is there."""
    for number in range(blocks):
        with suppress(OSError):
            place_of(_key(key, number)).unlink()


def _key(key: str, number: int) -> str:
    return f"{key}.{number}"


def joined(parts: Sequence[Parsed], notes: Sequence[str] = ()) -> Parsed:
    """The molecules of all parts, in their order."""
    arrays = [part.collection.arrays() for part in parts]
    return Parsed(
        Collection(**{name: numpy.concatenate([each[name] for each in arrays]) for name in arrays[0]}),
        numpy.concatenate([part.sources for part in parts]),
        numpy.concatenate([part.identities for part in parts]),
        tuple(item for part in parts for item in part.left_out),
        tuple(item for part in parts for item in part.changed),
        notes=tuple(notes),
    )
