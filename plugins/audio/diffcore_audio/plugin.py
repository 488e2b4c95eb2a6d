"""The records of the audio plugin. Importing this module is fast: torch is imported by the builders only."""

from collections.abc import Iterable

from diffcore.nn.options import DiTOptions, EncoderOptions, GridAutoencoderOptions, UNetOptions
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Modality, Widget, lazy
from diffcore_audio.options import DrumsOptions, FolderOptions, SoundFacts, SpeechOptions, WritingOptions
from diffcore_audio.presets import PRESETS

API_VERSION = 2

_lazy = lazy("diffcore_audio")

AUDIO = Modality(
    name="audio",
    summary="sounds, mono or stereo",
    datasets=(
        Component(
            "drums",
            "six percussion instruments, synthesised",
            _lazy("data.datasets:drums"),
            DrumsOptions,
            small={"sounds": 20, "codec": "complex", "bands": 32, "hop": 32, "seconds": 0.05},
        ),
        Component(
            "folder",
            "your own sounds: one folder per class, or one folder of all",
            _lazy("data.datasets:folder"),
            FolderOptions,
        ),
        Component(
            "sc09",
            "23,666 spoken digits of one second, from Speech Commands",
            _lazy("data.datasets:sc09"),
            SpeechOptions,
        ),
        Component(
            "speechcommands",
            "105,829 recordings of 35 spoken words, one second each",
            _lazy("data.datasets:speech_commands"),
            SpeechOptions,
        ),
    ),
    denoisers=(
        Component(
            "unet",
            "U-Net on patches",
            _lazy("networks:unet"),
            UNetOptions,
            accepts=("tokens", "like_state"),
            small={"width": 16, "multipliers": (1, 2), "patch": 4},
        ),
        Component(
            "dit",
            "diffusion transformer on patches",
            _lazy("networks:dit"),
            DiTOptions,
            accepts=("tokens", "like_state"),
            small={"width": 32, "depth": 2, "heads": 2, "patch": 4},
        ),
    ),
    classifiers=(
        Component(
            "encoder",
            "the first half of a U-Net, averaged over all positions",
            _lazy("networks:encoder"),
            EncoderOptions,
        ),
    ),
    networks={
        "autoencoder": (
            Component(
                "grid",
                "convolutions over the spectrogram, down to a smaller one and up again",
                _lazy("autoencoder:autoencoder"),
                GridAutoencoderOptions,
                small={"width": 8},
            ),
        )
    },
    fidelity=_lazy("autoencoder:fidelity"),
    presets=PRESETS,
    facts=SoundFacts,
    codec=_lazy("codec:SoundCodec"),
    writer=_lazy("output.writer:SoundWriter"),
    writing=WritingOptions,
    reader=_lazy("editing.reader:SoundReader"),
    distance=_lazy("evaluation.distance:MelDistance"),
    widgets=(Widget("gap", "Choose the part that is filled in.", _lazy("output.gap:gap_chooser")),),
    evaluator=_lazy("evaluation.evaluator:build_evaluator"),
    contract=_lazy("contract:contract"),
    requires=("torch", "torchaudio", "soundfile", "scipy"),
)


@hookimpl
def diffcore_modalities() -> Iterable[Modality]:
    return (AUDIO,)
