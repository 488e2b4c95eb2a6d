"""What holds for the presets of every kind of data that is installed."""

import functools
from types import SimpleNamespace

import pytest
import torch

from diffcore.api.training import without_guidance_of_preset
from diffcore.errors import UserError
from diffcore.plugins.registry import installed
from diffcore.runs import model as models
from diffcore.runs.composing import compose
from diffcore.runs.generation import example_conditions, require_conditions, unguided_without_conditions
from diffcore.runs.sampling_config import sampling_config
from tests.docs.given import MAKERS

PRESETS = [(name, preset) for name, found in installed().modalities.items() for preset in found.record.presets]


@pytest.mark.parametrize(("modality", "preset"), PRESETS)
def test_presets_say_steps(modality, preset):
    """Minutes would train half as long on a machine that is half as fast."""
    train = compose(installed(), modality, preset).train
    assert train.steps is not None
    assert train.minutes is None


LAYOUTS = {
    "heap": ("{}",),
    "classes": ("cat/{}", "dog/{}"),
    "train and test": ("train/cat/{}", "train/dog/{}", "test/cat/{}", "test/dog/{}"),
    "test in the classes": ("cat/train/{}", "dog/train/{}", "cat/test/{}", "dog/test/{}"),
    "kits": ("KitA/cat/{}", "KitA/dog/{}", "KitB/cat/{}", "KitB/dog/{}"),
    "wrapped": ("pets/PetImages/cat/{}", "pets/PetImages/dog/{}"),
}
FOLDERS = [
    (name, component.name)
    for name, found in installed().modalities.items()
    for component in found.record.datasets
    if "class_level" in component.options.model_fields
]


@pytest.fixture(scope="module")
def laid(tmp_path_factory):
    """A folder of two examples in each place of a layout, made once."""

    @functools.cache
    def lay(modality, data, layout):
        root = tmp_path_factory.mktemp("laid")
        for place in LAYOUTS[layout]:
            for index in range(8 if layout == "heap" else 2):
                file = root / place.format(f"{index}")
                file.parent.mkdir(parents=True, exist_ok=True)
                MAKERS[modality, data](file, index)
        return root

    return lay


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("modality", "data"), FOLDERS)
def test_every_preset_takes_every_layout_of_a_folder(modality, data, layout, laid):
    """The data are read, the network takes their shape, and samples can be drawn as the preset says."""
    registry, root, read = installed(), laid(modality, data, layout), {}
    for preset, about in registry.modality(modality).presets.items():
        if "data" not in about.values:  # its data are those of the first stage, in whose latents it diffuses
            continue
        settings = compose(registry, modality, preset, chosen={"data": data}, over={"data": {"root": str(root)}})
        options = settings.data.model_dump_json()
        if options not in read:
            read[options] = models.build_data(settings, registry)
        codec = registry.modality(modality).codec(read[options].facts)
        assert [condition.classes for condition in codec.conditions] == ([] if layout == "heap" else [("cat", "dog")])
        if not hasattr(settings, "denoiser"):  # a classifier or a first stage of a model in latents draws no samples
            continue
        with torch.device("meta"):
            models._build(settings, "denoiser", registry, codec.space)
        settings = without_guidance_of_preset(settings, codec.conditions, registry)
        model = SimpleNamespace(codec=codec, modality=registry.modality(modality))
        config, shown = sampling_config(settings.sample, registry, model), example_conditions(model, 1)
        require_conditions(model, unguided_without_conditions(model, config, shown), shown)


def test_only_guidance_that_the_user_chose_is_refused_without_conditions(caplog):
    caplog.set_level("INFO")
    registry = installed()
    settings = compose(registry, "audio", "folder", chosen={"data": "folder"})
    guidance = settings.sample.guidance
    assert guidance != 1
    assert without_guidance_of_preset(settings, (), registry).sample.guidance == 1
    assert f"so guidance {guidance:g} of the preset folder is not used" in caplog.text
    chosen = compose(registry, "audio", "folder", chosen={"data": "folder"}, over={"sample": {"guidance": 7.0}})
    assert without_guidance_of_preset(chosen, (), registry) is chosen
    assert without_guidance_of_preset(settings, (object(),), registry) is settings


def test_a_preset_gives_options_of_its_solver_and_a_name_replaces_both():
    registry = installed()
    model = SimpleNamespace(codec=None, modality=registry.modality("molecule"))

    def solver(**over):
        settings = compose(registry, "molecule", "default", over={"sample": over})
        return sampling_config(settings.sample, registry, model, guides=()).solver

    assert solver() == "edm (low 0.005)"
    assert solver(solver="edm") == "edm"
    assert solver(solver={"name": "ddim", "eta": 0.5}) == "ddim (eta 0.5)"
    with pytest.raises(UserError, match="lo is not an option here; perhaps you meant low"):
        solver(solver={"name": "edm", "lo": 1.0})
