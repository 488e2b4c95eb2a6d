"""Metrics of sounds: whether they have the requested class, and are as varied and as loud as real ones, and new.

A small classifier is trained once on log-mel spectrograms of the real data; it gives the metrics of SC09 (Kong et al.
2021, DiffWave, section 5.3) for any set of sounds. Without classes that it can tell apart, the Frechet distance is that
of the principal components of the spectrograms.
"""

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.evaluation.judge import judge_of
from diffcore.evaluation.metrics import distance_metrics, evenly, frechet_distance, inception_score
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.output import Metric
from diffcore.plugins.text import prompts_of, text_values
from diffcore_audio.data.synthesis import INSTRUMENTS
from diffcore_audio.described.metrics import Heard, prompt_metrics
from diffcore_audio.evaluation.ceilings import distances, rebuilt
from diffcore_audio.evaluation.envelopes import envelope_metrics, sound_metrics
from diffcore_audio.evaluation.fad import fad_metrics
from diffcore_audio.evaluation.features import MelFeatures, augment
from diffcore_audio.evaluation.levels import Levels, level_metrics
from diffcore_audio.evaluation.neighbours import copy_threshold, nearest
from diffcore_audio.signals.spectra import MELS, log_mel, standardised
from diffcore_audio.signals.waves import SILENCE, finite, floats, waves_of

_FRAMES = 32
"""Frames of the spectrograms that are compared."""
_VALUES_AT_ONCE = 2**22
"""Values of waveforms that are measured at once."""
_STEPS = 600
"""Training steps of the classifier."""
_CLASSIFIER = "sound-classifier-2"
"""Name of the classifier in the cache.

Change it together with the classifier, its input or its augmentation, so that old weights are not used.
"""


class SoundEvaluator:
    """Compares samples with real sounds.

    `data.examples` and `data.held_out` have the fields `waveform`, int16 `[n, C, L]`, and `label`, `[n]`. Samples are
    float waveforms with full scale 1; those that are not finite are replaced by silence. Each metric is also computed
    for the held-out sounds, or the training sounds if none are held out; and for up to 300 of these that were encoded
    and decoded (`_codec`), because no samples can be better than that. Levels below -60 dB of full scale count as
    silence, for samples and real sounds alike.
    """

    def __init__(self, codec: Codec, data: Data, cache: Path) -> None:
        facts, train = codec.facts, data.examples  # type: ignore[attr-defined]
        tested = train if data.held_out is None else data.held_out
        self._facts, self._rate = facts, facts.rate
        self._real_name = "training sounds" if data.held_out is None else "held-out sounds"
        self._train, self._tested = self._spectra(train), self._spectra(tested)
        self._labels, self._waves = train["label"], train["waveform"]
        self._classes = tuple(INSTRUMENTS) if facts.described else facts.classes
        inputs, known = (standardised(part, SILENCE) for part in (self._train, self._tested))
        self._judge = judge_of(
            partial(MelFeatures, MELS),
            MelFeatures.size,
            (inputs, train["label"]),
            (known, tested["label"]),
            len(self._classes),
            cache,
            _CLASSIFIER,
            "log-mels",
            augment,
            _STEPS,
        )
        self._train_features, _ = self._features(self._train)
        tested_features, logits = self._features(self._tested)
        self._held_out_features = None if data.held_out is None else tested_features
        if logits is not None:
            self._real_inception_score = inception_score(logits)
        self._real_levels = Levels.of(_float_chunks(tested["waveform"]), self._rate), tested["label"]
        self._train_levels = self._real_levels
        if data.held_out is not None:
            self._train_levels = Levels.of(_float_chunks(train["waveform"]), self._rate), train["label"]
        self._tested_waves = tested["waveform"]
        self._codec, self._real = codec, None
        if facts.described and logits is not None:
            prompts = prompts_of(codec.conditions, text_values(codec.conditions, tested), len(tested))
            self._real = Heard(floats(tested["waveform"]), logits.argmax(1), prompts)
        self._real_distances = nearest(self._train) if data.held_out is None else nearest(self._tested, self._train)

    def __call__(self, decoded: Tensor | TensorDict, conditions: Conditions) -> list[Metric]:
        """The metrics of the sounds; the class agreement counts only those with a requested class."""
        samples = finite(waves_of(decoded).cpu().float())[0]
        spectra = log_mel(samples, self._rate, _FRAMES, SILENCE)
        features, logits = self._features(spectra)
        return [
            *self._prompt_metrics(samples, logits, conditions),
            *self._class_metrics(logits, conditions),
            *self._distance_metrics(features, conditions.get("label")),
            *self._level_metrics(samples, conditions.get("label")),
            *self._ceiling[1],
            *self._copy_metrics(nearest(spectra, self._train)),
            *fad_metrics(samples, floats(self._waves), self._rate),
        ]

    def of_side(self, name: str, samples: TensorDict, real: TensorDict) -> list[Metric]:
        """Metrics of samples whose side `name`, sound or envelope, was drawn given the other side of `real` ones."""
        if name == "envelope":
            return envelope_metrics(samples, real, self._facts.envelope)
        (_, seen), (_, true) = (
            self._features(log_mel(finite(each["waveform"].cpu().float())[0], self._rate, _FRAMES, SILENCE))
            for each in (samples, real)
        )
        classes = None if seen is None or true is None else (seen.argmax(1), true.argmax(1))
        return sound_metrics(samples, real, self._facts.envelope, classes)

    def _spectra(self, examples: TensorDict) -> Tensor:
        """Log-mel spectrograms of examples, `[n, 64, 32]` in dB."""
        return torch.cat([log_mel(part, self._rate, _FRAMES, SILENCE) for part in _float_chunks(examples["waveform"])])

    def _features(self, spectra: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features and logits of the judge; without a classifier, None in place of the logits."""
        return self._judge.features_and_logits(standardised(spectra, SILENCE))

    def _prompt_metrics(self, samples: Tensor, logits: Tensor | None, conditions: Conditions) -> list[Metric]:
        """How often samples are what sentences about synthesised drums ask for."""
        if self._real is None or logits is None:
            return []
        prompts = prompts_of(self._codec.conditions, conditions, len(samples))
        heard = Heard(samples, logits.argmax(1), prompts)
        return prompt_metrics(heard, self._real, self._real_name, self._rate)

    def _class_metrics(self, logits: Tensor | None, conditions: Conditions) -> list[Metric]:
        if logits is None:
            return []
        metrics, label = [], conditions.get("label")
        if label is not None and (given := label.cpu() < len(self._classes)).any():
            metrics += self._judge.agreement(logits[given], label.cpu()[given])
        formula = f"exp(mean KL(p(y | x) || p(y))) of the classifier, from 1 to {len(self._classes)}"
        return [
            *metrics,
            Metric("inception_score", inception_score(logits), f"{formula}; high for distinct and varied samples"),
            Metric("inception_score_real", self._real_inception_score, f"the same for {self._real_name}"),
        ]

    def _distance_metrics(self, features: Tensor, label: Tensor | None) -> list[Metric]:
        reference, held_out = self._train_features, self._held_out_features
        both = None if label is None or held_out is None else (label, self._real_levels[1])
        return distance_metrics(features, reference, self._labels, "training sounds", self._judge.space, held_out, both)

    def _level_metrics(self, samples: Tensor, label: Tensor | None) -> list[Metric]:
        """Loudness, decay, noise floor and full scale of the samples, of real sounds, and of these from the codec."""
        classes = self._classes
        if label is None or not (label.cpu() < len(classes)).any():
            classes = ()
        of_samples = (
            Levels.of(samples.split(_rows_at_once(samples)), self._rate),
            None if label is None else label.cpu(),
        )
        sets = {"": of_samples, "_real": self._real_levels, "_codec": self._ceiling[0]}
        meanings = {"_real": f"the same for {self._real_name}", "_codec": f"the same, {self._decoded_name}"}
        return level_metrics(sets, self._train_levels, classes, meanings)

    @property
    def _decoded_name(self) -> str:
        return f"for {self._real_name} that were encoded and decoded"

    @cached_property
    def _ceiling(self) -> tuple[tuple[Levels, Tensor], list[Metric]]:
        """The levels and classes of real sounds that were encoded and decoded, and the other metrics of these."""
        originals, found = rebuilt(self._tested_waves, self._facts)
        labels = evenly(self._real_levels[1], len(found))
        features, logits = self._features(log_mel(found, self._rate, _FRAMES, SILENCE))
        metrics = []
        if logits is not None:
            agreement = (logits.argmax(1) == labels).double().mean().item()
            metrics.append(Metric("class_agreement_codec", agreement, f"class_agreement {self._decoded_name}"))
        if self._held_out_features is not None and len(found) > 1:
            real = evenly(self._held_out_features, len(found))
            distance, of_real = (frechet_distance(each, self._train_features) for each in (features, real))
            meaning = f"frechet_ratio {self._decoded_name}, {len(found)} of them"
            metrics.append(Metric("frechet_ratio_codec", distance / max(of_real, 1e-12), meaning))
        levels = Levels.of(found.split(_rows_at_once(found)), self._rate), labels
        return levels, [*metrics, *distances(originals, found, self._real_name)]

    def _copy_metrics(self, distances: Tensor) -> list[Metric]:
        if not self._real_distances.isfinite().all():
            return []
        limit = copy_threshold(self._real_distances)

        def fraction_of_copies(distances: Tensor) -> float:
            return (distances <= limit).double().mean().item()

        return [
            Metric(
                "nearest_db",
                distances.median().item(),
                "RMS difference in dB of log-mel spectrograms to the nearest training sound, median",
            ),
            Metric("nearest_db_real", self._real_distances.median().item(), f"the same for {self._real_name}"),
            Metric(
                "copies",
                fraction_of_copies(distances),
                f"fraction of samples within {limit:.3g} dB of a training sound",
            ),
            Metric("copies_real", fraction_of_copies(self._real_distances), f"the same for {self._real_name}"),
        ]


def _float_chunks(waves: Tensor) -> Iterator[Tensor]:
    """int16 waveforms as floats in parts, one after another, which bounds the memory."""
    return map(floats, waves.split(_rows_at_once(waves)))


def _rows_at_once(waves: Tensor) -> int:
    """How many of the waveforms are measured at once."""
    return max(1, _VALUES_AT_ONCE // max(1, waves[:1].numel()))


def build_evaluator(codec: Codec, data: Data, cache: Path) -> SoundEvaluator:
    """The evaluator of a data set whose `codec.facts` are `SoundFacts`; the folder `cache` keeps its classifier."""
    return SoundEvaluator(codec, data, cache)
