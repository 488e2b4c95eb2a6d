"""Texts of examples: how a data set gives captions, and how a codec makes a condition of them.

A data set puts all its texts into `Data.texts`, each once, and into the column `captions` of its examples, int64
`[N, M]`, the numbers of the texts of each example, with -1 where an example has fewer than M; `indexed` makes both from
lists of captions. The core then chooses a text encoder, `text`, and replaces the column by `text` `[N, M, L]`, the ids.

A codec passes the field `text` of its facts to `text_conditions` and to `text_values`:

    self.conditions = (*others, *text_conditions(facts.text))

    def encode(self, examples, draws=None):
        ...
        return Encoded(state, {**values, **text_values(self.conditions, examples, draws)})
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition, Conditions, captions_of
from diffcore.denoising.text import TextCondition, TextEncoder, padded, shown
from diffcore.errors import UserError, first_line
from diffcore.plugins import registry
from diffcore.plugins.building import build
from diffcore.plugins.builtin.text_encoders import LearnedWords, WordsOptions
from diffcore.plugins.data import Data
from diffcore.plugins.ledger import named
from diffcore.plugins.records import Component
from diffcore.plugins.registry import choose
from diffcore.plugins.text_facts import MOST_SAMPLES, TextFacts
from diffcore.states.noise import Draws

if TYPE_CHECKING:
    from tensordict import TensorDict

logger = logging.getLogger(__name__)

NAME = "prompt"
"""The name of the condition."""

CAPTIONS, IDS = "captions", "text"
"""The columns of examples with the numbers of their texts, `[N, M]`, and with the ids of these texts, `[N, M, L]`."""


def indexed(captions: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], Tensor]:
    """The distinct texts of all examples, and their numbers by example, int64 `[N, M]`, with -1 for none.

    `captions` are the texts of each example, which may be none or several.
    """
    texts: dict[str, int] = {}
    rows = [[texts.setdefault(text, len(texts)) for text in each] for each in captions]
    return tuple(texts), padded(rows, max([1, *map(len, rows)]), -1)


def text_conditions(facts: TextFacts | None) -> tuple[TextCondition, ...]:
    """The condition of texts with these facts; none where the data have no texts.

    Raises `UserError` if the text encoder is not installed, or is not the one that the run was trained with.
    """
    if facts is None:
        return ()
    component = choose(registry.installed().offered("text_encoders"), facts.encoder, "text encoder")
    try:
        encoder = build("text", component, component.options(**facts.options), (), facts.learned)
    except (ValidationError, TypeError, KeyError) as error:
        raise UserError(
            f"what the run knows of its text encoder {facts.encoder!r} is damaged ({_why(error)}): restore its "
            "config.json from a copy"
        ) from None
    if encoder.digest != facts.digest:
        raise UserError(
            f"the text encoder {facts.encoder!r} is not the one that this run was trained with: its digest is "
            f"{encoder.digest[:12]}, and the run has {facts.digest[:12]}; install that one, or restore the config.json "
            "of the run from a copy"
        )
    return (TextCondition(NAME, encoder, facts.samples),)


def _why(error: Exception) -> str:
    """What is wrong, in one line; of pydantic the first of its errors, with its place."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def text_values(conditions: Sequence[Condition], examples: "TensorDict", draws: Draws | None = None) -> Conditions:
    """The values of the text condition among `conditions` for examples of the data set; empty if there is none.

    With `draws`, as in training, each example that has several texts gets one of them at random; otherwise the first.
    Examples without a text, or without the column of texts, get the null value.
    """
    values: Conditions = {}
    for condition in conditions:
        if isinstance(condition, TextCondition):
            ids = examples.get(IDS, None)
            if ids is None:
                values[condition.name] = condition.null(len(examples), examples.device or "cpu")
                continue
            number = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
            if draws is not None and ids.shape[1] > 1:
                counts = (ids > 0).any(2).sum(1)
                number = (draws.uniform("caption").to(ids.device) * counts).long().clamp(max=ids.shape[1] - 1)
            values[condition.name] = ids[torch.arange(len(ids), device=ids.device), number].long()
    return values


def prompts_of(conditions: Sequence[Condition], values: Conditions, n: int) -> list[str]:
    """The texts of `n` samples that have the `values` of `conditions`; empty where there is none."""
    return [caption.get(NAME, "") for caption in captions_of(conditions, values, n)]


def encoder_of(conditions: Sequence[Condition]) -> TextEncoder | None:
    """The text encoder of the text condition among `conditions`, or None."""
    return next((each.encoder for each in conditions if isinstance(each, TextCondition)), None)


def require_text(conditions: Sequence[Condition], argument: str) -> None:
    """Raise `UserError` if a model with these conditions was trained without captions; `argument` is a text for it."""
    if not any(isinstance(condition, TextCondition) for condition in conditions):
        known = ", ".join(condition.name for condition in conditions)
        others = f"; it takes: {known}" if known else ""
        raise UserError(f"this model was trained without captions, so it takes no `{argument}`{others}")


def keep_texts(network: nn.Module, data: Data) -> None:
    """Call `keep_texts` of text networks that are not trained: they encode each text of the training examples once."""
    ids = data.examples.get(IDS, None)
    for module in network.modules() if ids is not None else ():
        if callable(keep := getattr(module, "keep_texts", None)):
            keep(ids)


def with_text(data: Data, component: Component | None, options: Any, known: TextEncoder | None = None) -> Data:
    """The data with the ids of their texts, and with the text encoder in their facts; unchanged if they have no texts.

    * `component`, `options`: the text encoder that learns from the texts of the training examples.
    * `known`: the text encoder of a run that is trained already, which is used instead.

    Raises `UserError` if the facts of the data have no field for texts, or if no training example has a text.
    """
    if not data.texts:
        return data
    if component is None or "text" not in type(data.facts).model_fields:
        raise UserError(f"the data have texts, and the facts {type(data.facts).__name__} have no field `text` for them")
    parts = {name: part for name in ("examples", "held_out", "asked") if (part := getattr(data, name)) is not None}
    for part in parts.values():
        _require_numbers(part, len(data.texts))
    used = [data.texts[number] for number in data.examples[CAPTIONS].unique().tolist() if number >= 0]
    if not used:
        raise UserError("no training example has a caption, so a model cannot learn from them")
    encoder: TextEncoder = build("text", component, options, used, None) if known is None else known
    rows = [encoder.known_ids(text) for text in data.texts]
    table = padded([*rows, []], encoder.length)  # the last row is the empty text, for -1
    table = table.to(torch.int16 if int(table.max()) < 2**15 else torch.int32)
    step = max(1, len(used) // MOST_SAMPLES)
    samples = tuple(text[:10_000] for text in used[::step][:MOST_SAMPLES])
    facts = TextFacts(
        encoder=component.name,
        options=options.model_dump(mode="json", exclude={"name"}),
        learned=dict(encoder.learned),
        digest=encoder.digest,
        samples=samples,
    )
    return replace(
        data,
        facts=data.facts.model_copy(update={"text": facts}),
        **{name: _with_ids(part, table) for name, part in parts.items()},
        texts=(),
        ledger=replace(data.ledger, about={**data.ledger.about, "captions": _about(used, data.examples)}),
        notes=(*data.notes, *_notes(data.texts, rows, encoder)),
    )


def _about(used: Sequence[str], examples: "TensorDict") -> str:
    """How many texts the training examples have, in words."""
    lacking = int((examples[CAPTIONS] < 0).all(1).sum())
    without = f", none for {lacking:,} of {len(examples):,} examples" if lacking else ""
    return f"{len(used):,} different texts for training{without}"


def _require_numbers(examples: "TensorDict", count: int) -> None:
    """Raise `UserError` unless the examples have the numbers of texts, of which there are `count`."""
    numbers = examples.get(CAPTIONS, None)
    if not isinstance(numbers, Tensor) or numbers.ndim != 2 or numbers.dtype != torch.int64:
        raise UserError(f"data with texts need the column {CAPTIONS!r} of their examples, int64 [N, M]")
    if len(numbers) and not -1 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise UserError(f"the column {CAPTIONS!r} has numbers outside of -1 to {count - 1}, the last text")


def _with_ids(examples: "TensorDict", table: Tensor) -> "TensorDict":
    """Examples with the ids of their texts in place of their numbers; texts without ids come after the others."""
    ids = table[examples[CAPTIONS]]
    if ids.shape[1] > 1:
        order = (ids > 0).any(2).logical_not().sort(dim=1, stable=True).indices
        ids = ids.gather(1, order[:, :, None].expand_as(ids))
    changed = examples.exclude(CAPTIONS)
    changed[IDS] = ids.contiguous()
    return changed


def _notes(texts: Sequence[str], rows: Sequence[Sequence[int]], encoder: TextEncoder) -> list[str]:
    """Lines about texts that are used in part or not at all."""
    empty = [text for text, ids in zip(texts, rows, strict=True) if not ids]
    cut = [text for text, ids in zip(texts, rows, strict=True) if len(ids) > encoder.length]
    found = {
        "captions without a word that the model knows, which are not used": empty,
        f"captions of which only the first {encoder.length} parts are used": cut,
    }
    return [f"{what}: {len(which)} ({named([*map(shown, which)], 3)})" for what, which in found.items() if which]


def words(options: WordsOptions, texts: Sequence[str], learned: Any) -> TextEncoder:
    """The text encoder `words`: with the vocabulary of `texts`, or with what it has `learned` in an earlier run."""
    from diffcore.denoising.words import Words, vocabulary, words_of

    if learned is None:
        counts = Counter(len(words_of(text)) for text in texts)
        longest = max(counts)
        if not longest:
            raise UserError("the captions of the training examples have no words")
        found = vocabulary(texts, options.vocabulary)
        length = min(max(longest, 8), options.length)
    else:
        known = LearnedWords(**learned)
        found, length = known.vocabulary, known.length
    return Words(found, length, options.channels, options.layers, options.heads)
