"""What does text cost in training? The time of a training step with sentences, as a ratio to one without.

Both networks take steps in turn (loss, gradient, clipping, Adam, moving average) on random pictures of 32x32, one with
the sentences of `--data scenes` and the text encoder `words`, as the presets have it. Printed are the medians of the
CPU time, which other processes disturb little, and the median of the ratios of neighbouring steps.

    python tests/benchmarks/text_cost.py [--threads 1] [--steps 60] [--profile] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import diffcore as dc
from diffcore.denoising.text import TextCondition, padded
from diffcore.denoising.words import Words, vocabulary, words_of
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.states.noise import generator_for
from diffcore.training import averages
from diffcore_image.scenes.draw import random_scenes
from diffcore_image.scenes.sentences import write

BATCH = 64
SENTENCES = write(random_scenes(2000, generator_for(0, "scenes")), generator_for(0, "sentences"))
LENGTH = max(len(words_of(sentence)) for sentence in SENTENCES)
PROMPT = TextCondition("prompt", Words(vocabulary(SENTENCES, 1000), LENGTH))

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "U-Net 40-80-160, patch 2, attention": lambda tokens: UNet(
        3, 40, (1, 2, 4), patch=2, attention=True, tokens=tokens
    ),
    "U-Net 32-64-128, patch 2 (folder)": lambda tokens: UNet(3, 32, (1, 2, 4), patch=2, tokens=tokens),
    "DiT 96 x 6, patch 4, narrow MLP (scenes)": lambda tokens: DiT(
        3, (32, 32), width=96, heads=3, mlp_ratio=2.0, tokens=tokens
    ),
    "DiT 192 x 6, patch 4": lambda tokens: DiT(3, (32, 32), tokens=tokens),
}


class Trained:
    """A denoiser with its optimiser, ready to take steps."""

    def __init__(self, make: Callable[[int], nn.Module], with_text: bool) -> None:
        torch.manual_seed(0)
        conditions = (PROMPT,) if with_text else ()
        self.denoiser = dc.Denoiser(make(PROMPT.encoder.channels if with_text else 0), conditions)
        self.weights = list(self.denoiser.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.Adam(self.weights, 1e-3, fused=True)
        self.x = torch.randn(BATCH, 3, 32, 32)
        self.ids = padded([PROMPT.encoder.ids(text) for text in SENTENCES], LENGTH) if with_text else None
        self.done = 0

    def step(self) -> None:
        """One training step, on the next sentences."""
        rows = torch.arange(self.done * BATCH, (self.done + 1) * BATCH)
        values = None if self.ids is None else {"prompt": self.ids[rows % len(self.ids)]}
        loss = dc.denoising_loss(self.denoiser, self.x, conditions=values)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        averages.update(self.average, self.weights, 0.999)
        self.done += 1

    def seconds(self) -> float:
        """The CPU time of a step."""
        started = time.process_time()
        self.step()
        return time.process_time() - started


def main() -> None:
    """Measure in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--profile", action="store_true", help="also print where the time with text goes")
    parser.add_argument("--json", help="write the metrics there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{BATCH} sentences of at most {LENGTH} words, {len(PROMPT.encoder.vocabulary)} words")
    print(f"{'CPU time of a step in ms':46}{'without':>9}{'with text':>11}{'ratio':>7}")
    results = {}
    for name, make in NETWORKS.items():
        without, with_text = (Trained(make, with_text) for with_text in (False, True))
        pairs = [(without.seconds(), with_text.seconds()) for _ in range(options.steps + 3)][3:]
        plain, told = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(with_text / without for without, with_text in pairs)
        results[name] = {"without": plain, "with_text": told, "ratio": ratio}
        print(f"{name:46}{1000 * plain:9.1f}{1000 * told:11.1f}{ratio:7.2f}", flush=True)
        if options.profile:
            for trained in (without, with_text):
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                    for _ in range(5):
                        trained.step()
                print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=18))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
