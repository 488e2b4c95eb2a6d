"""What the configuration of a run would do outside its folder, and whether its user has agreed to that.

A run reads the data that its configuration names, may download data, and may start loggers that send its numbers to
other places. Somebody who trains a run has chosen that. Somebody who gets a run from another person has not, so
`resume` and `evaluate` then ask for `trust`, and so do all commands if the network itself would be built from files
outside of the run. A configuration file for a new run is named by the user; what it does outside of the run is logged.

A run is known by a signature in config.json: an HMAC-SHA256 [1] of its other content with a secret key of the user. It
does not depend on the place of the folder, so a run that is moved stays the user's own, and any change of config.json
makes it a stranger's. The key is made when the first run is written. Where it cannot be kept, a run is its user's own
only in the process that made it.

[1] RFC 2104, HMAC: Keyed-Hashing for Message Authentication.
"""

import contextlib
import hmac
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from diffcore.errors import UserError, quoted, shortened
from diffcore.plugins.records import IN_TRAINING, absolute, places
from diffcore.runs.composing import ADDITIONS, additions, chosen_parts
from diffcore.runs.settings import RunSettings
from diffcore.system.cache import cache_folder
from diffcore.system.files import digest_of, read_regular

_BYTES = 32
"""Length of a key."""


def signature_of(content: Mapping[str, Any]) -> str:
    """The signature of the content of config.json, in hexadecimal digits. The key is made if there is none."""
    return _signed(content, next(_stored_keys(), None) or _new_key() or _key_of_this_process())


def is_own(content: Mapping[str, Any], signature: Any) -> bool:
    """Whether this user has signed exactly this content of a config.json."""
    return isinstance(signature, str) and any(
        hmac.compare_digest(_signed(content, key).encode(), signature.encode(errors="replace"))
        for key in (*_stored_keys(), _key_of_this_process())
    )


def require_consent(
    path: Path, settings: RunSettings, given: Collection[str] = (), loggers: bool = True, data: bool = True
) -> None:
    """Raise `UserError` if the configuration of the run in `path`, which is not the user's own, acts outside of it.

    `given` are the options of the data set that the user has given; `loggers` says whether loggers would be started.
    Without `data`, only the network and the schedule are used: then the error is raised if these name a place, other
    than what training alone reads.
    """
    if not data and not any(_places(_untrained(part)) for part in _of_model(settings)):
        return
    dataset: Any = settings.data  # type: ignore[attr-defined]
    read = [(name, place) for name, place in _places(dataset) if name not in given]
    others = [*_of_model(settings), *additions(settings, "metric").values()]
    more = _reading(place for part in others for _, place in _places(part))
    more += ["download data"] if getattr(dataset, "download", False) else []
    more += [f"start the logger {name}" for name in additions(settings, "logger") if loggers]
    if acts := [*_reading(place for _, place in read), *more]:
        movable = not more and {name for name, _ in read} <= set(places(type(dataset)))
        instead = "".join(f", or name data of your own with `data.{name}`" for name, _ in read) if movable else ""
        whose = "was made by another user or an earlier version, or its config.json was changed"
        if next(_stored_keys(), None) is None:
            whose = f"cannot be told from a run of another user, as there is no key of yours in {_files()[0]}"
        raise UserError(
            f"{path} {whose}, and it would {' and '.join(acts)}; to allow that, add `trust`{instead}; "
            f"diffcore config {quoted(path)} shows its configuration"
        )


def acts_of_file(file: Mapping[str, Any], settings: RunSettings) -> list[str]:
    """What the values of a configuration file let a new run do outside of its folder, in words.

    A value counts if it is in the `settings`, so one that an argument replaces does not.
    """
    tables = {kind: file.get(kind) for kind in (*chosen_parts(settings), *ADDITIONS)}
    used = {text for kind in tables for _, text in _texts(getattr(settings, kind, None))}
    acts = _reading(text for table in tables.values() for _, text in _places(table) if _is_among(text, used))
    acts += ["download data"] if _downloads(tables["data"]) and _downloads(settings.data) else []  # type: ignore[attr-defined]
    loggers = tables["logger"] or {}
    return acts + [f"start the logger {name}" for name in additions(settings, "logger") if name in loggers]


def _is_among(text: str, used: Collection[str]) -> bool:
    with contextlib.suppress(ValueError):  # no home folder
        return text in used or absolute(text) in used
    return False


def _downloads(data: Any) -> bool:
    return bool(data.get("download") if isinstance(data, Mapping) else getattr(data, "download", False))


def _reading(found: Iterable[str]) -> list[str]:
    return [f"read {shortened(place, 200)}" for place in dict.fromkeys(found)]


def _of_model(settings: RunSettings) -> list[Any]:
    """The options of the task, the network and the schedule."""
    return [part for kind, part in chosen_parts(settings).items() if kind != "data"]


def _untrained(options: BaseModel) -> dict[str, Any]:
    """The options that differ from their defaults, without those that training alone reads."""
    chosen = options.model_dump(exclude_defaults=True)
    reading = {name for name, info in type(options).model_fields.items() if IN_TRAINING in info.metadata}
    return {name: value for name, value in chosen.items() if name not in reading}


def _places(options: Any) -> list[tuple[str, str]]:
    """The files, folders and addresses that the options name, each with the name of its option.

    Besides each `Place`, these are all texts that look like one, as a plugin may declare its options otherwise.
    """
    return [(name, text) for name, text in _texts(options) if _is_place(text)]


def _is_place(text: str) -> bool:
    return "/" in text or os.sep in text or text.startswith("~") or os.path.lexists(text)


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The texts and paths among the values of options, each with the name of its option.

    Values that a part has by default are left out, as the author of the configuration did not choose them.
    """
    if isinstance(value, str | os.PathLike):
        yield name, os.fsdecode(value)
    elif isinstance(value, BaseModel):
        for field, info in type(value).model_fields.items():
            chosen = getattr(value, field)
            if chosen != info.get_default(call_default_factory=True):
                yield from _texts(chosen, f"{name}.{field}".removeprefix("."))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, Collection):
        for item in value:
            yield from _texts(item, name)


def _signed(content: Mapping[str, Any], key: bytes) -> str:
    return hmac.new(key, f"diffcore run {digest_of(content)}".encode(), "sha256").hexdigest()


@cache
def _key_of_this_process() -> bytes:
    return secrets.token_bytes(_BYTES)


def _files() -> list[Path]:
    """Where the key may be: in the user's folder of configurations or, if that cannot be written, in the cache."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    with contextlib.suppress(RuntimeError):  # no home folder
        folder = folder or str(Path.home() / ".config")
    return [*([Path(folder) / "diffcore" / "key"] if folder else []), cache_folder() / "key"]


def _stored_keys() -> Iterator[bytes]:
    """The keys of this user. A file of another user is none, as in a cache that several users share."""
    for path in _files():
        with contextlib.suppress(OSError, UserError):
            mine = not hasattr(os, "geteuid") or path.stat().st_uid == os.geteuid()
            if mine and len(key := read_regular(path, _BYTES)) == _BYTES:
                yield key


def _new_key() -> bytes | None:
    """Make a key, which only this user can read, or return the one that another process has just made."""
    for path in _files():
        part = path.with_name(f".key.{secrets.token_hex(6)}.part")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(part, path)  # unlike renaming, it never replaces the key of another process
            part.unlink()
            if key := next(_stored_keys(), None):
                return key
    return None
