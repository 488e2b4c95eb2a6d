"""Figures of sounds: whether they are what was asked, as varied, as loud as real ones, and new.

A small classifier is trained on log-mel spectrograms of the real data, once: the figures of SC09 (Kong et al. 2021,
DiffWave, section 5.3) for any set of sounds. Sets without classes are compared by their principal components.
"""

from functools import partial
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.classifier import trained_classifier
from diffcore.conditions import Conditions
from diffcore.data import Codec, Data
from diffcore.figures import agreement_figures, distance_figures, inception_score
from diffcore.output import Figure
from diffcore_audio.critic import MelFeatures, moved
from diffcore_audio.fad import fad_figures
from diffcore_audio.neighbours import copied_within, nearest
from diffcore_audio.spectra import MELS, log_mel, standardised
from diffcore_audio.waves import FULL_SCALE, SILENCE, finite, rms_db

_REFERENCE = 2000
"""Held-out sounds are compared with where there are at least so many, else all real sounds."""
_FRAMES = 32
"""Parts of a sound's time, of which a spectrogram is judged."""
_STEPS = 600
_RECIPE = "sound-classifier-1"
"""Changes when the classifier, its input or its augmentation does, so that old weights are not used."""


class SoundJudge:
    """Figures against real sounds.

    `data.examples` and `data.held_out` have the fields `waveform` int16 `[n, C, L]` and `label` `[n]`. Samples are
    floats of full scale 1; those that are not finite are judged as silence.
    """

    def __init__(self, codec: Codec, data: Data, cache: Path) -> None:
        facts, held_out = codec.facts, data.held_out  # type: ignore[attr-defined]
        self._rate: int = facts.rate
        train = data.examples
        if held_out is not None and len(held_out) >= _REFERENCE:
            self._reference, self._words = held_out, "held-out real sounds"
        else:
            parts = [train] if held_out is None else [train, held_out]
            self._reference, self._words = TensorDict.cat(parts), "real sounds, all there are"
        self._train = self._spectra(train)
        tested, labels = (self._train, train) if held_out is None else (self._spectra(held_out), held_out)
        whole = self._reference is held_out
        reference = tested if whole or held_out is None else torch.cat([self._train, tested])
        self._classes = facts.classes
        if self._classes:
            self._classifier = trained_classifier(
                partial(MelFeatures, MELS),
                MelFeatures.size,
                standardised(self._train),
                train["label"],
                len(self._classes),
                cache,
                _RECIPE,
                moved,
                _STEPS,
            )
            self._real, _ = self._classifier.judged(standardised(reference))
            _, logits = self._classifier.judged(standardised(tested))
            self._accuracy = (logits.argmax(1) == labels["label"]).double().mean().item()
            self._variety = inception_score(logits)
        else:
            vectors = standardised(reference).flatten(1)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                _, _, self._axes = torch.pca_lowrank(vectors, q=min(MelFeatures.size, *vectors.shape), niter=4)
            self._real = vectors @ self._axes
        self._loudness = torch.cat([rms_db(part) for part in _in_floats(self._reference["waveform"])])
        self._apart = nearest(self._train) if held_out is None else nearest(tested, self._train)
        self._tested = "each training sound to the nearest other one" if held_out is None else "held-out real sounds"

    def __call__(self, samples: Tensor, conditions: Conditions) -> list[Figure]:
        """Figures of the samples; agreement only of those that were asked for a class."""
        samples = finite(samples.cpu().float())[0]
        spectra = log_mel(samples, self._rate, _FRAMES)
        return [
            *self._compared(standardised(spectra), conditions),
            *self._loud(rms_db(samples)),
            *self._new(nearest(spectra, self._train)),
            *fad_figures(samples, _floats(self._reference["waveform"]), self._rate),
        ]

    def _spectra(self, examples: TensorDict) -> Tensor:
        """`[n, 64, 32]` in dB."""
        return torch.cat([log_mel(part, self._rate, _FRAMES) for part in _in_floats(examples["waveform"])])

    def _compared(self, spectra: Tensor, conditions: Conditions) -> list[Figure]:
        labels = self._reference["label"]
        if not self._classes:
            space = "principal components of log-mel spectrograms"
            return distance_figures(spectra.flatten(1) @ self._axes, self._real, labels, self._words, space)
        features, logits = self._classifier.judged(spectra)
        figures = []
        asked = conditions.get("label")
        if asked is not None and (given := asked.cpu() < len(self._classes)).any():
            figures += agreement_figures(logits[given], asked.cpu()[given], self._accuracy)
        of = f"exp(mean KL(p(y | x) || p(y))) of the classifier, 1 to {len(self._classes)}"
        return [
            *figures,
            Figure("inception_score", inception_score(logits), f"{of}: sure of each sample, and of all different"),
            Figure("inception_score_real", self._variety, "the same for real ones, held out where there are any"),
            *distance_figures(
                features, self._real, labels, self._words, "features of a classifier trained on the data"
            ),
        ]

    def _loud(self, loudness: Tensor) -> list[Figure]:
        silent, silent_real = ((rows < SILENCE).double().mean().item() for rows in (loudness, self._loudness))
        return [
            Figure("silence_rate", silent, f"share of samples with an RMS under {SILENCE:g} dBFS"),
            Figure("silence_rate_real", silent_real, f"the same for {self._words}"),
            Figure("rms_db", loudness.median().item(), "median RMS of the samples in dBFS"),
            Figure("rms_db_real", self._loudness.median().item(), f"the same for {self._words}"),
        ]

    def _new(self, distances: Tensor) -> list[Figure]:
        if not self._apart.isfinite().all():
            return []
        limit = copied_within(self._apart)

        def share(apart: Tensor) -> float:
            return (apart <= limit).double().mean().item()

        return [
            Figure(
                "nearest_db",
                distances.median().item(),
                "RMS difference in dB of log-mel spectrograms to the nearest training sound, median",
            ),
            Figure("nearest_db_real", self._apart.median().item(), f"the same for {self._tested}"),
            Figure("copies", share(distances), f"share of samples within {limit:.3g} dB of a training sound"),
            Figure("copies_real", share(self._apart), f"the same for {self._tested}"),
        ]


def _floats(waves: Tensor) -> Tensor:
    """int16 as numbers from -1 to 1."""
    return waves.float() / FULL_SCALE


def _in_floats(waves: Tensor) -> list[Tensor]:
    """The same, some at a time."""
    return [_floats(part) for part in waves.split(1000)]


def build_judge(codec: Codec, data: Data, cache: Path) -> SoundJudge:
    """The judge of a data set; `codec.facts` are its `SoundFacts`."""
    return SoundJudge(codec, data, cache)
