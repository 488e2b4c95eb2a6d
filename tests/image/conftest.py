import numpy
import pytest
from PIL import Image


@pytest.fixture
def picture_folder(tmp_path):
    """Two classes of 30 pictures each, with a bright left or right half, in different colours and sizes."""
    generator = numpy.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(30):
            height, width = generator.integers(16, 24, 2)
            pixels = generator.integers(0, 60, (height, width, 3), dtype=numpy.uint8)
            half = slice(0, width // 2) if name == "left" else slice(width // 2, None)
            pixels[:, half] += 150
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index:02d}.png")
    return tmp_path / "pictures"
