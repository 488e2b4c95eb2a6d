"""How often do pictures show what a sentence asks for, attribute by attribute, at several weights of guidance?

Draws samples of a run that was trained on `scenes`, for the sentences of its held-out pictures, and reads the pictures
with the judge of the data set. Beside each number stands that of the control: the same pictures with the sentences of
other pictures. Then the colours of two objects change places in the sentences, and the same noise is denoised again.

    diffcore train --modality image --data scenes
    python tests/benchmarks/scenes.py runs/image/scenes-1 [--n 1000] [--guidance 1 2 3 5] [--json FILE]

The first lines say how often the judge is right about real pictures that it has not seen.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch

import diffcore as dc
from diffcore.states.noise import generator_for
from diffcore_image.options import ScenesOptions
from diffcore_image.scenes.dataset import scenes
from diffcore_image.scenes.draw import placed, random_scenes
from diffcore_image.scenes.judge import judge
from diffcore_image.scenes.metrics import scene_metrics
from diffcore_image.scenes.render import render
from diffcore_image.scenes.scene import Scenes
from diffcore_image.scenes.score import compare
from diffcore_image.scenes.sentences import write


def judged(n: int) -> dict[str, float]:
    """How often the judge is right about `n` real pictures, in percent by attribute."""
    generator = generator_for(2, "judged")
    real = placed(random_scenes(n, generator), generator)
    found = compare(real.scenes, judge(render(real)))
    return {name: 100 * value.nanmean().item() for name, value in found.items()}


def attributes(run: Any, data: Any, n: int, guidance: float) -> dict[str, tuple[float, str]]:
    """The metrics of `n` samples at a weight of guidance, each with its meaning."""
    numbers = data.held_out["captions"][torch.arange(n) % len(data.held_out), 0]
    prompts = [data.texts[number] for number in numbers.tolist()]
    samples = run.sample(n, prompt=prompts, guidance=guidance).decoded
    return {metric.name: (metric.value, metric.meaning) for metric in scene_metrics(samples, prompts)}


def swapped_colours(run: Any, n: int, guidance: float) -> dict[str, float]:
    """How often colours change places in a picture when they do in its sentence, in percent."""
    drawn = random_scenes(8 * n, generator_for(3, "swapped"))
    drawn = drawn[(drawn.count == 2) & (drawn.colour[:, 0] != drawn.colour[:, 1])][:n]
    other = Scenes(drawn.count, drawn.colour.flip(1), drawn.shape, drawn.size, drawn.relation)
    right = []
    for asked in (drawn, other):
        prompts = write(asked, generator_for(4, "swapped"), complete=True)
        samples = run.sample(len(prompts), prompt=prompts, guidance=guidance).decoded
        right.append(compare(asked, judge(samples))["colour"] == 1)
    first, second = right
    return {
        "right before": 100 * first.double().mean().item(),
        "right before and after": 100 * (first & second).double().mean().item(),
        "right after, where right before": 100 * second[first].double().mean().item(),
    }


def main() -> None:
    """Print the results and write them to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run that was trained on scenes")
    parser.add_argument("--n", type=int, default=1000, help="samples for each weight, in four groups")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 3, 5], help="weights of guidance")
    parser.add_argument("--json", type=Path, help="file for the results")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    run = dc.load(chosen.run)
    results: dict[str, Any] = {"judge": judged(10_000), "guidance": {}, "swapped": {}}
    print("the judge on real pictures:", *(f"{name} {value:.2f} %" for name, value in results["judge"].items()))
    data = scenes(ScenesOptions(**run.settings.data.model_dump(exclude={"name"})))
    for guidance in chosen.guidance:
        found = results["guidance"][guidance] = attributes(run, data, chosen.n, guidance)
        swapped = results["swapped"][guidance] = swapped_colours(run, chosen.n // 4, guidance)
        print(f"\nguidance {guidance:g}")
        for name, (value, meaning) in found.items():
            print(f"  {name}: {value:.1f} ({meaning})")
        print("  colours swapped:", *(f"{name} {value:.1f} %" for name, value in swapped.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
