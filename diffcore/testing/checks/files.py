"""A check of samples and of the files that a writer makes of them."""

import tempfile
from pathlib import Path
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.building import part_of
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import combined, name_list, not_finite, source_location
from diffcore.testing.checks.sampling import draw_samples
from diffcore.testing.plugin import PluginUnderTest

_COLUMNS = 2


def samples_decode(plugin: PluginUnderTest) -> Measurement:
    """Samples of an untrained network are finite, each state is decoded to one sample, and the writer writes them all.

    There must be a file for each sample, a file of all samples for each of the writer's `endings`, and a fragment of
    HTML. An untrained network gives samples unlike the data, which decoding and writing must accept too.
    """
    n = 4
    drawn = draw_samples(plugin, 0, n)
    infinite = [name or "state" for name in not_finite(drawn.state)]
    if isinstance(drawn.decoded, Tensor | TensorDict):
        infinite += [f"decoded {name}".strip() for name in not_finite(drawn.decoded)]
    decode = source_location(plugin.codec.decode)
    if infinite:
        return Measurement(False, f"nan or infinite numbers in {name_list(infinite)}", "finite samples", decode)
    if len(drawn.decoded) != n:
        measured = f"{n} states are decoded to {len(drawn.decoded)} samples"
        return Measurement(False, measured, "one sample for each state", decode)
    return _files(plugin, drawn.decoded, n)


def _files(plugin: PluginUnderTest, samples: Any, n: int) -> Measurement:
    writer = part_of(plugin.modality, "writer", plugin.codec)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (each := folder / "each").mkdir()
        paths = writer.each(samples, each, [f"{i}" for i in range(n)])
        overviews = [folder / f"all{ending}" for ending in writer.endings]
        for path in overviews:
            writer.together(samples, path, _COLUMNS)
        html = writer.html(samples, _COLUMNS)
        empty = [str(p.relative_to(folder)) for p in (*paths, *overviews) if not p.is_file() or not p.stat().st_size]
        written = sum(1 for path in each.iterdir() if path.is_file())
    where = source_location(type(writer))
    is_text = isinstance(html, str)
    return combined(
        Measurement(
            not empty,
            f"missing or empty files: {name_list(empty)}" if empty else "finite samples, all files are written",
            "a file that is not empty for each sample, and one of all samples for each of the writer's endings",
            where,
        ),
        Measurement(
            len(paths) == n and written >= n,
            f"`each` returns {len(paths)} paths and writes {written} files for {n} samples",
            f"{n} paths and as many files",
            where,
        ),
        Measurement(
            is_text and bool(html),
            f"`html` returns {len(html)} characters" if is_text else f"`html` returns a {type(html).__name__}",
            "a fragment of HTML that is not empty",
            where,
        ),
    )
