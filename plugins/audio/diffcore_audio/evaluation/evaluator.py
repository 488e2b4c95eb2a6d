"""Figures of sounds: whether they are what was asked, as varied, as loud as real ones, and new.

A small classifier is trained on log-mel spectrograms of the real data, once: the metrics of SC09 (Kong et al. 2021,
DiffWave, section 5.3) for any set of sounds. Sets without classes are compared by their principal components.
"""

from functools import partial
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.evaluation.classifier import trained_classifier
from diffcore.evaluation.metrics import agreement_metrics, distance_metrics, inception_score, principal_axes
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.output import Metric
from diffcore_audio.evaluation.fad import fad_metrics
from diffcore_audio.evaluation.features import MelFeatures, moved
from diffcore_audio.evaluation.neighbours import copied_within, nearest
from diffcore_audio.signals.spectra import MELS, log_mel, standardised
from diffcore_audio.signals.waves import FULL_SCALE, SILENCE, finite, rms_db

_FRAMES = 32
"""Parts of a sound's time, of which a spectrogram is judged."""
_STEPS = 600
_RECIPE = "sound-classifier-2"
"""Changes when the classifier, its input or its augmentation does, so that old weights are not used."""


class SoundEvaluator:
    """Figures against real sounds.

    `data.examples` and `data.held_out` have the fields `waveform` int16 `[n, C, L]` and `label` `[n]`. Samples are
    floats of full scale 1; those that are not finite are judged as silence. Held-out sounds, where there are any, stand
    beside the samples in everything; what is below -60 dB of full scale is silence, for samples and real sounds alike.
    """

    def __init__(self, codec: Codec, data: Data, cache: Path) -> None:
        facts, train = codec.facts, data.examples  # type: ignore[attr-defined]
        tested = train if data.held_out is None else data.held_out
        self._rate: int = facts.rate
        self._words = "training sounds" if data.held_out is None else "held-out sounds"
        self._train, self._tested = self._spectra(train), self._spectra(tested)
        self._labels, self._waves = train["label"], train["waveform"]
        self._classes, self._classifier = facts.classes, None
        if self._classes:
            body, size = partial(MelFeatures, MELS), MelFeatures.size
            inputs, count = standardised(self._train, SILENCE), len(self._classes)
            self._classifier = trained_classifier(
                body, size, inputs, train["label"], count, cache, _RECIPE, moved, _STEPS
            )
        else:
            self._axes = principal_axes(self._train.flatten(1), MelFeatures.size)
        self._real, _ = self._judged(self._train)
        beside, logits = self._judged(self._tested)
        self._beside = None if data.held_out is None else beside
        if logits is not None:
            self._accuracy = (logits.argmax(1) == tested["label"]).double().mean().item()
            self._variety = inception_score(logits)
        self._loudness = torch.cat([rms_db(part) for part in _in_floats(tested["waveform"])])
        self._apart = nearest(self._train) if data.held_out is None else nearest(self._tested, self._train)

    def __call__(self, samples: Tensor, conditions: Conditions) -> list[Metric]:
        """Figures of the samples; agreement only of those that were asked for a class."""
        samples = finite(samples.cpu().float())[0]
        spectra = log_mel(samples, self._rate, _FRAMES, SILENCE)
        features, logits = self._judged(spectra)
        return [
            *self._classified(logits, conditions),
            *self._compared(features),
            *self._loud(rms_db(samples)),
            *self._new(nearest(spectra, self._train)),
            *fad_metrics(samples, _floats(self._waves), self._rate),
        ]

    def _spectra(self, examples: TensorDict) -> Tensor:
        """`[n, 64, 32]` in dB."""
        return torch.cat([log_mel(part, self._rate, _FRAMES, SILENCE) for part in _in_floats(examples["waveform"])])

    def _judged(self, spectra: Tensor) -> tuple[Tensor, Tensor | None]:
        """The classifier's last features `[n, 64]` and logits; without one principal components, and no logits."""
        if self._classifier is None:
            return spectra.flatten(1) @ self._axes, None
        return self._classifier.judged(standardised(spectra, SILENCE))

    def _classified(self, logits: Tensor | None, conditions: Conditions) -> list[Metric]:
        if logits is None:
            return []
        metrics, asked = [], conditions.get("label")
        if asked is not None and (given := asked.cpu() < len(self._classes)).any():
            metrics += agreement_metrics(logits[given], asked.cpu()[given], self._accuracy)
        of = f"exp(mean KL(p(y | x) || p(y))) of the classifier, 1 to {len(self._classes)}"
        return [
            *metrics,
            Metric("inception_score", inception_score(logits), f"{of}: sure of each sample, and of all different"),
            Metric("inception_score_real", self._variety, f"the same for {self._words}"),
        ]

    def _compared(self, features: Tensor) -> list[Metric]:
        space = "features of a classifier trained on the data" if self._classes else "principal components of mels"
        return distance_metrics(features, self._real, self._labels, "training sounds", space, self._beside)

    def _loud(self, loudness: Tensor) -> list[Metric]:
        silent, silent_real = ((rows < SILENCE).double().mean().item() for rows in (loudness, self._loudness))
        return [
            Metric("silence_rate", silent, f"share of samples with an RMS under {SILENCE:g} dBFS"),
            Metric("silence_rate_real", silent_real, f"the same for {self._words}"),
            Metric("rms_db", loudness.median().item(), "median RMS of the samples in dBFS"),
            Metric("rms_db_real", self._loudness.median().item(), f"the same for {self._words}"),
        ]

    def _new(self, distances: Tensor) -> list[Metric]:
        if not self._apart.isfinite().all():
            return []
        limit = copied_within(self._apart)

        def share(apart: Tensor) -> float:
            return (apart <= limit).double().mean().item()

        return [
            Metric(
                "nearest_db",
                distances.median().item(),
                "RMS difference in dB of log-mel spectrograms to the nearest training sound, median",
            ),
            Metric("nearest_db_real", self._apart.median().item(), f"the same for {self._words}"),
            Metric("copies", share(distances), f"share of samples within {limit:.3g} dB of a training sound"),
            Metric("copies_real", share(self._apart), f"the same for {self._words}"),
        ]


def _floats(waves: Tensor) -> Tensor:
    """int16 as numbers from -1 to 1."""
    return waves.float() / FULL_SCALE


def _in_floats(waves: Tensor) -> list[Tensor]:
    """The same, some at a time."""
    return [_floats(part) for part in waves.split(1000)]


def build_evaluator(codec: Codec, data: Data, cache: Path) -> SoundEvaluator:
    """The evaluator of a data set; `codec.facts` are its `SoundFacts`."""
    return SoundEvaluator(codec, data, cache)
