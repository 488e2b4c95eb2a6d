"""Reads `CLIPTextModel` and its tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcore.errors import UserError
from diffcore.interop.weights import checked
from diffcore.system.files import is_count
from diffcore_diffusers import folders
from diffcore_diffusers.imports.configs import made, options_of
from diffcore_diffusers.options.clip import HfClipOptions, LearnedPieces

_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
}
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("clip_text_model",),
    "use_attention_mask": (False,),
    "is_encoder_decoder": (False,),
    "output_hidden_states": (False,),
}
_WITHOUT_EFFECT = (
    *("architectures", "attention_dropout", "dropout", "bos_token_id", "eos_token_id", "pad_token_id", "dtype"),
    *("initializer_factor", "initializer_range", "projection_dim", "torch_dtype", "transformers_version"),
    *("chunk_size_feed_forward", "return_dict"),
)
_MARKS = {"begin": "bos_token", "end": "eos_token", "filling": "pad_token"}
_USUAL = {"begin": "<|startoftext|>", "end": "<|endoftext|>", "filling": "<|endoftext|>"}


def clip_options(folder: Path, pieces: int) -> HfClipOptions:
    """The options of `hf-clip` of the `CLIPTextModel` in `folder`, whose tokenizer has that many pieces.

    Raises `UserError` for values that are not known. The weights stay as they are in training, as they do there.
    """
    place = folder / "config.json"
    values = options_of(
        folders.table(place), HfClipOptions, str(place), _DEFAULTS, _ONLY, ("vocab_size", *_WITHOUT_EFFECT)
    )
    if values["vocab_size"] != pieces:
        raise UserError(f"{place}: vocab_size is {values['vocab_size']}; the tokenizer has {pieces} pieces")
    return made(HfClipOptions, values, str(place), vocabulary=max(520, pieces), frozen=True)


def clip_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the `CLIPTextModel` in `folder`, by the names that they have in `hf-clip`."""
    tensors = {name.removeprefix("text_model."): each for name, each in folders.weights(folder, folders.TEXT).items()}
    tensors.pop("embeddings.position_ids", None)  # the numbers 0, 1, 2, ..., which older versions wrote
    return {f"net.{name}": tensor for name, tensor in tensors.items()}


def read_pieces(folder: Path) -> LearnedPieces:
    """The pieces of words of the `CLIPTokenizer` in `folder`: of tokenizer.json, or of vocab.json and merges.txt.

    Raises `UserError` for tokenizers of another kind, and for files that are damaged.
    """
    whole = folder / "tokenizer.json"
    if whole.exists() or whole.is_symlink():
        content = folders.table(whole)
        model = content.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
            raise UserError(f"{whole} is not the tokenizer of a CLIP")
        numbers, pairs = model.get("vocab"), model.get("merges")
        added = content.get("added_tokens")
        known = numbers if isinstance(numbers, dict) else {}
        if not isinstance(added, list | None) or any(
            not isinstance(each, dict) or str(each.get("content")) not in known for each in added or ()
        ):
            raise UserError(f"{whole} has pieces that were added later, which cannot be read")
    else:
        whole = folder / "vocab.json"
        numbers, pairs = folders.table(whole), folders.lines(folder / "merges.txt")
        pairs = [line for line in pairs if line and not line.startswith("#version")]
    places = list(numbers.values()) if isinstance(numbers, dict) else []
    if not isinstance(numbers, dict) or not all(map(is_count, places)) or {*places} != {*range(len(places))}:
        raise UserError(f"{whole} does not number its pieces from 0 on")
    if not isinstance(pairs, list):
        raise UserError(f"{whole} has no list of the pairs of pieces that are joined")
    joined = [" ".join(map(str, pair)) if isinstance(pair, list) else pair for pair in pairs]
    return checked(
        LearnedPieces,
        {"pieces": sorted(numbers, key=numbers.__getitem__), "joined": joined, **_marks(folder)},
        str(whole),
    )  # type: ignore[no-any-return]


def _marks(folder: Path) -> dict[str, Any]:
    """The pieces that begin, end and fill a text, from the configuration of the tokenizer."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        place = folder / name
        content = folders.table(place) if place.exists() or place.is_symlink() else {}
        for key, mark in _MARKS.items():
            value = content.get(mark)
            value = value.get("content") if isinstance(value, dict) else value
            found |= {} if value is None else {key: value}
    return _USUAL | found
