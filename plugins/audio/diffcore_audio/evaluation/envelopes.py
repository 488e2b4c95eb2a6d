"""Metrics of joint states: sounds that were drawn given their envelopes, and envelopes given sounds."""

from tensordict import TensorDict
from torch import Tensor

from diffcore.evaluation.metrics import others
from diffcore.plugins.output import Metric
from diffcore_audio.options import EnvelopeFacts
from diffcore_audio.signals.envelopes import envelope
from diffcore_audio.signals.waves import finite


def sound_metrics(
    samples: TensorDict, real: TensorDict, facts: EnvelopeFacts, classes: tuple[Tensor, Tensor] | None
) -> list[Metric]:
    """How well sounds that were drawn given the envelopes of `real` ones have these.

    The waveforms of `real` are those of the codec, so their envelopes are the best that drawn sounds can have.
    `classes` are those that a classifier assigns the drawn and the real sounds to, `[B]` each.
    """
    asked, drawn, other = real["envelope"].cpu(), _measured(samples, facts), others(len(real))
    metrics = [
        *_compared(
            "sound_envelope_db", "the loudness over time of drawn sounds and the one that they were given", drawn, asked
        ),
        Metric(
            "sound_envelope_db_codec",
            difference(_measured(real, facts), asked),
            "the same for the real sounds, encoded and decoded",
        ),
    ]
    if classes is not None:
        seen, true = classes
        metrics += [
            Metric("sound_class", _share(seen == true), "fraction of drawn sounds of the class of the real ones"),
            Metric("sound_class_shuffled", _share(seen == true[other]), "the same with other real sounds"),
        ]
    return metrics


def envelope_metrics(samples: TensorDict, real: TensorDict, facts: EnvelopeFacts) -> list[Metric]:
    """How well envelopes that were drawn given `real` sounds are those of these sounds."""
    drawn, true = samples["envelope"].cpu(), real["envelope"].cpu()
    return [
        *_compared(
            "envelope_error_db", "the drawn loudness over time and that of the sound that was given", drawn, true
        ),
        Metric(
            "envelope_error_db_codec",
            difference(_measured(real, facts), true),
            "the same for the loudness of the real sounds, encoded and decoded",
        ),
    ]


def difference(levels: Tensor, others: Tensor) -> float:
    """The root mean square difference of levels `[B, K]` in dB over the frames, averaged over the sounds."""
    return (levels.double() - others.double()).square().mean(1).sqrt().mean().item()


def _compared(name: str, of: str, drawn: Tensor, asked: Tensor) -> list[Metric]:
    meaning = f"RMS difference in dB between {of}"
    return [
        Metric(name, difference(drawn, asked), meaning),
        Metric(f"{name}_shuffled", difference(drawn, asked[others(len(asked))]), "the same with another sound"),
    ]


def _measured(samples: TensorDict, facts: EnvelopeFacts) -> Tensor:
    """The envelopes of the waveforms of samples; those that are not finite count as silence."""
    return envelope(finite(samples["waveform"].cpu().float())[0], facts)


def _share(values: Tensor) -> float:
    return values.double().mean().item()
