import os
from pathlib import Path

import pytest
import torch

from tests.support.toy import put_in_place, toy_registry


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Judges keep their classifiers in a folder of the test session."""
    os.environ["DIFFCORE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def quick_classifiers():
    """A tenth of the training of evaluators' classifiers: enough for data that are easy to tell apart."""
    patch = pytest.MonkeyPatch()
    patch.setattr("diffcore.evaluation.classifier._STEPS", 150)
    patch.setattr("diffcore_audio.evaluation.evaluator._STEPS", 60)
    patch.setattr("diffcore_pointcloud.evaluation.evaluator._STEPS", 60)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real data sets in their official formats, where a checkout has them."""
    folder = Path(os.environ.get("DIFFCORE_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing (set DIFFCORE_TEST_DATA)")
    return folder


@pytest.fixture
def float64():
    """Tensors are of float64 unless said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def toy():
    """Every command sees the toy alone."""
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, toy_registry())
        yield
