"""How well does a model learn a folder of a thousand spoken words?

espeak-ng (a package of the operating system) speaks 20 words in 50 voices, which differ in speaker, speed and pitch,
into a folder with a subfolder for each word. A model is trained on it with the preset of folders, and its metrics are
printed: how often a classifier hears the word that was asked for, beside the same of real recordings.

    python tests/benchmarks/spoken_words.py --root FOLDER [--steps 4300] [--json FILE]

FOLDER is made unless it exists. With `--seconds 4 --rate 22050`, each file is a sentence of the words in random order,
and its class is the speaker.
"""

import argparse
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import diffcore as dc

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "stop", "go", "hello", "thanks"),
)
SPEAKERS = ("m1", "m3", "m7", "f2", "f4")


def speak(text: str, file: Path, speaker: str, speed: int, pitch: int) -> None:
    """Write `text` as a WAV file, spoken by a variant of the British voice."""
    command = ["espeak-ng", "-v", f"en-gb+{speaker}", "-s", str(speed), "-p", str(pitch), "-w", str(file), text]
    subprocess.run(command, check=True)


def make_words(root: Path, n: int) -> None:
    """Each word `n` times, at 120 to 200 words a minute, with pitches of 20 to 80 on espeak's scale of 100."""
    drawn = random.Random(0)
    for word in WORDS:
        (root / word).mkdir(parents=True)
        for number in range(n):
            speaker = SPEAKERS[number % len(SPEAKERS)]
            speak(word, root / word / f"{number:03}.wav", speaker, drawn.randint(120, 200), drawn.randint(20, 80))


def make_sentences(root: Path, n: int, words: int) -> None:
    """Sentences of `words` random words, `n` of each speaker."""
    drawn = random.Random(0)
    for speaker in SPEAKERS:
        (root / speaker).mkdir(parents=True)
        for number in range(n):
            text = " ".join(drawn.choices(WORDS, k=words))
            speak(text, root / speaker / f"{number:03}.wav", speaker, drawn.randint(140, 180), 50)


def main() -> None:
    """Make the folder, train, and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--preset", default="folder")
    parser.add_argument("--steps", type=int, default=4300)
    parser.add_argument("--seconds", type=float, default=0.64)
    parser.add_argument("--rate", type=int, default=16000)
    parser.add_argument("--n", type=int, default=500, help="samples")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the run folder")
    parser.add_argument("--json", help="write the metrics there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.root.exists():
        if shutil.which("espeak-ng") is None:
            raise SystemExit("espeak-ng is not installed")
        if options.seconds < 2:
            make_words(options.root, 50)
        else:
            make_sentences(options.root, 200, round(2 * options.seconds))
    data: dict[str, Any] = {"root": str(options.root), "seconds": options.seconds, "rate": options.rate}
    train = {"steps": options.steps, "evaluate": options.n}
    run = dc.train("audio", preset=options.preset, data=data, train=train, out=options.out)
    found = {row["name"]: row["value"] for row in json.loads((run.path / "metrics.json").read_text())}
    for name, value in found.items():
        print(f"{name:26} {value:.4g}")
    if options.json:
        Path(options.json).write_text(json.dumps({"options": vars(options), **found}, indent=2, default=str))


if __name__ == "__main__":
    main()
