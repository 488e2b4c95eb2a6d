"""The contract about structure: what the core does not know, and what it does not import."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "diffcore"
MODALITIES = ("image", "audio", "molecul", "point ?cloud", "spectrogram")


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_names_no_modality(path):
    text = path.read_text()
    # A citation may name what its paper is about, and CSS and other libraries have words of their own.
    text = re.sub(r"EDM for molecules|image-rendering|\.Image\(|encoded_image_string=|\bimage=", "", text)
    found = [line for line in text.splitlines() if re.search(rf"\b({'|'.join(MODALITIES)})", line, re.IGNORECASE)]
    assert not found


def imported_by(code):
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    printed = subprocess.check_output([sys.executable, "-c", script], text=True)
    return set(printed.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "from diffcore.cli import main; main(['--help'])",
        "from diffcore.cli import main; main(['plugins'])",
        "from diffcore.cli import main; main(['--version'])",
        "import diffcore_audio.plugin",
        "import diffcore_image.plugin",
        "import diffcore_molecule.plugin",
        "import diffcore_pointcloud.plugin",
    ],
)
def test_help_and_listings_import_nothing_heavy(code):
    general = {"torch", "numpy", "PIL", "tensordict", "scipy", "rich", "tyro"}
    heavy = general | {"sklearn", "torchvision", "torchaudio", "soundfile", "rdkit", "e3nn", "trimesh"}
    assert not imported_by(code) & heavy


def test_a_configuration_is_shown_without_torch():
    assert "torch" not in imported_by("from diffcore.cli import main; main(['config', '--modality', 'image'])")


def test_the_core_imports_no_plugin_and_none_of_their_libraries():
    modules = [
        ".".join(path.relative_to(CORE.parent).with_suffix("").parts)
        for path in CORE.rglob("*.py")
        if path.name != "__main__.py"
    ]
    found = imported_by(f"import importlib\nfor name in {modules!r}: importlib.import_module(name)")
    plugins = {"PIL", "sklearn", "torchvision", "torchaudio", "rdkit", "e3nn", "pytorch3d"}
    assert not found & plugins
    assert not [name for name in found if name.startswith("diffcore_")]
