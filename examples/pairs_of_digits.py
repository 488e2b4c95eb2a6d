"""Makes pairs of pictures and sounds: handwritten digits, each drummed as often as it says, and 0 as a long tone.

    python examples/pairs_of_digits.py PAIRS
    diffcore train --modality image+audio --data.root PAIRS --data.image.size 8 \
        --data.audio.rate 8000 --data.audio.seconds 1 --data.audio.bands 32 --data.audio.hop 128 \
        --levels.shifts audio -4 --train.steps 1200

`PAIRS/image/CLASS/NUMBER.png` and `PAIRS/audio/CLASS/NUMBER.wav` are a pair. No two sounds are alike: the pitch, the
decay, the loudness and the time between two beats are drawn for each.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

RATE, SECONDS = 8000, 1.0


def drummed(digit: int, random: np.random.Generator) -> np.ndarray:
    """A sound of `digit` beats, or a long tone for 0."""
    t = np.arange(int(RATE * SECONDS)) / RATE
    pitch, loudness = random.uniform(250, 900), random.uniform(0.3, 0.8)
    if digit == 0:
        return loudness * np.sin(2 * np.pi * pitch * t) * np.exp(-t * random.uniform(1, 3))
    sound, decay, between = np.zeros_like(t), random.uniform(40, 70), random.uniform(0.085, 0.1)
    for beat in range(digit):
        since = t - 0.01 - beat * between
        struck = np.sin(2 * np.pi * pitch * since) + 0.3 * random.standard_normal(len(t))
        sound += np.where(since >= 0, loudness * struck * np.exp(-decay * since.clip(0)), 0)
    return sound.clip(-1, 1)


def main(out: Path) -> None:
    digits, random = load_digits(), np.random.default_rng(0)
    for number, (picture, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        places = [out / kind / str(digit) / f"{number:04d}" for kind in ("image", "audio")]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
        grey = (picture * 255 / 16).round().astype(np.uint8)
        Image.fromarray(grey).save(places[0].with_suffix(".png"))
        soundfile.write(places[1].with_suffix(".wav"), drummed(int(digit), random), RATE)
    print(f"{len(digits.target)} pairs: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of the pairs")
    main(parser.parse_args().out)
