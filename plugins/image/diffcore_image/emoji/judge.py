"""A network that tells which text belongs to a picture, trained on real pictures and their texts.

As in CLIP (Radford et al. 2021), one network makes a vector of a picture and another one of a text, and both are
trained so that those of a picture and of its own text are near to each other and far from those of others. The text is
a bag of words. The network knows the training pictures only, so its accuracy on held-out ones is the most that a sample
of a perfect model can reach.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from diffcore.evaluation.effort import steps_to_train
from diffcore.evaluation.trained_once import entry, trained_once
from diffcore.nn.features import averaged
from diffcore.states.global_random import seeded
from diffcore.states.noise import generator_for
from diffcore.system.progress import counter

_NAME = "emoji-judge-1"
"""Name of the network in the cache. Change it together with the network or its training."""
_CHANNELS = 32
_FEATURES = 128
_STEPS, _BATCH, _RATE = 800, 128, 2e-3
_SMOOTHING = 0.1
"""The part of the target that is spread over all texts of a batch, because texts resemble each other."""
_LARGEST_SCALE = 50.0
"""The largest factor of the similarities before the softmax."""


class PictureTower(nn.Module):
    """Pictures, uint8 `[B, 3, H, W]`, averaged to 32x32 or less, to unit vectors `[B, 128]`."""

    def __init__(self) -> None:
        super().__init__()
        c = _CHANNELS
        self.body = nn.Sequential(
            *_convolution(3, c, 4, 2),
            *_convolution(c, c),
            nn.MaxPool2d(2),
            *_convolution(c, 2 * c),
            *_convolution(2 * c, 2 * c),
            nn.MaxPool2d(2),
            *_convolution(2 * c, 2 * c),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(2 * c * 16, _FEATURES),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Pixels in [-0.5, 0.5] to vectors."""
        return functional.normalize(self.body(x.to(memory_format=torch.channels_last)), dim=1)


def _convolution(channels: int, out: int, size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, size, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()


class TextTower(nn.Module):
    """Which words texts have, 0 or 1 `[B, V]`, to unit vectors `[B, 128]`: the normalised sum of v_w idf_w.

    v_w is the learned vector of the word w. idf_w, the log of the number of texts divided by that of texts with w,
    makes rare words count more.
    """

    idf: Tensor

    def __init__(self, idf: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(len(idf), _FEATURES) / math.sqrt(_FEATURES))
        self.register_buffer("idf", idf, persistent=False)

    def forward(self, bags: Tensor) -> Tensor:
        """Bags of words to vectors."""
        return functional.normalize((bags * self.idf) @ self.table, dim=1)


class Towers(nn.Module):
    """The networks of pictures and of texts, and the factor of their similarities."""

    def __init__(self, idf: Tensor) -> None:
        super().__init__()
        self.pictures, self.texts = PictureTower(), TextTower(idf)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, x: Tensor, bags: Tensor) -> Tensor:
        """The logits `[B, B]` of each picture with each text."""
        return self.pictures(x) @ self.texts(bags).T * self.log_scale.exp().clamp(max=_LARGEST_SCALE)


@dataclass(frozen=True)
class TextJudge:
    """How near pictures are to texts, by a trained network of a vocabulary of `words` words."""

    towers: Towers
    words: int

    @torch.no_grad()
    def similarity(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """The cosines `[n, m]` of pictures, uint8 `[n, 3, H, W]`, and texts, numbers of words `[m, K]`."""
        pictures = torch.cat([self.towers.pictures(_scaled(part)) for part in pixels.split(500)])
        return pictures @ self.towers.texts(bags_of(texts, self.words)).T


def trained_judge(pixels: Tensor, words: Tensor, subject: Tensor, cache: Path) -> TextJudge:
    """The judge that was trained on pictures `[n, 3, H, W]` of subjects `[n]`, from the folder `cache` or trained now.

    * `words`: the numbers of the words of each text, int64 `[n, K]`, filled up with -1.

    It is trained with AdamW for 800 steps of 128 pictures, which are moved, turned, scaled, blurred and recoloured at
    random. A part of the words of each text is left out at random. Pictures of the same subject in a batch all
    belong to its texts.
    """
    steps = steps_to_train(_STEPS)
    count = max(1, int(words.max()) + 1)
    bags, x = bags_of(words, count), _scaled(pixels)
    with seeded(0):
        towers = Towers((len(bags) / bags.sum(0).clamp(min=1)).log())
        path = entry(cache, _NAME, str(steps), pixels, words, subject)
        trained_once(towers, path, lambda: _fit(towers, x, bags, subject, steps))
    return TextJudge(towers.eval(), count)


def bags_of(words: Tensor, count: int) -> Tensor:
    """Numbers of words `[n, K]`, filled up with -1, as bags `[n, count]`: 1 for the words of a text, 0 for others."""
    bags = torch.zeros(len(words), count + 1)
    return bags.scatter_(1, words.where(words >= 0, count), 1.0)[:, :count]


def _scaled(pixels: Tensor) -> Tensor:
    return averaged(pixels.float() / 255 - 0.5)


def _fit(towers: Towers, x: Tensor, bags: Tensor, subject: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(towers.parameters(), lr=_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    generator = generator_for("emoji judge")
    towers.train()
    with counter("preparing the evaluation", steps) as after_step:
        for _ in range(steps):
            chosen = torch.randperm(len(x), generator=generator)[:_BATCH]
            logits = towers(_changed(x[chosen], generator), _with_fewer_words(bags[chosen], generator))
            same = (subject[chosen, None] == subject[None, chosen]).float()
            target = same / same.sum(1, keepdim=True)
            loss = sum(
                functional.cross_entropy(each, target, label_smoothing=_SMOOTHING) for each in (logits, logits.T)
            )
            assert isinstance(loss, Tensor)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            after_step(1)


def _changed(x: Tensor, generator: Generator) -> Tensor:
    """Pictures `[B, C, H, W]` that are mirrored, turned, scaled, moved, blurred, recoloured and made noisy at random.

    What moves in from outside is white.
    """

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(len(x), *shape).uniform_(low, high, generator=generator)

    scale, angle, move = drawn(0.8, 1.15), drawn(-0.2, 0.2), drawn(-0.15, 0.15, 2)
    mirrored = drawn(0, 1).round() * 2 - 1
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [
        torch.stack([mirrored * cosine, -sine, move[:, 0]], 1),
        torch.stack([mirrored * sine, cosine, move[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    y = functional.grid_sample(x - 0.5, grid, align_corners=False) + 0.5
    blurred = functional.avg_pool2d(functional.pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)
    y = y.lerp(blurred, drawn(-1, 1, 1, 1, 1).clamp(min=0))
    y = (y - 0.5) * drawn(0.85, 1.15, 3, 1, 1) + 0.5 + drawn(-0.08, 0.08, 3, 1, 1)
    return y + drawn(0, 0.05, 1, 1, 1) * torch.randn(y.shape, generator=generator)


def _with_fewer_words(bags: Tensor, generator: Generator) -> Tensor:
    """Bags `[B, V]` in which each word is left out with a probability of up to 0.6, drawn for each text."""
    kept = torch.rand(bags.shape, generator=generator) > 0.6 * torch.rand(len(bags), 1, generator=generator)
    fewer = bags * kept
    return torch.where((fewer.sum(1) > 0)[:, None], fewer, bags)
