import multiprocessing
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

os.environ["OMP_NUM_THREADS"] = "1"  # before the import of torch and numpy; child processes inherit it

import pytest
import torch

from tests.support.prepared import PreparedProcesses
from tests.support.runs import PICTURED, TrainedRuns
from tests.support.toy import put_in_place, toy_registry

torch.zeros(1, requires_grad=True).sum().backward()
"""The first derivative in a process decides how many threads compute derivatives. Here that is none, as forked children
need it; after the compiler or fake tensors of a GPU it would be more, and children that train would fail."""


HERE = Path(__file__).parent
CHEAP = ("test_architecture.py", "docs/test_links.py", "docs/test_reference.py")
LONG = (
    "training/test_distributed.py",
    "docs/test_blocks.py",
    "plugins/test_scaffold.py",
    "sampling/test_solvers.py",
    "testing/test_conformance.py",
    "examples/test_examples.py",
    "image/test_commands.py",
    "molecule/test_commands.py",
)
"""Modules that run first: fast checks of the structure, then slow modules, so that no worker is late at the end."""


def pytest_collection_modifyitems(items):
    """Fast checks first, then the slowest modules, then the others in their usual order."""
    order = {HERE / name: number for number, name in enumerate((*CHEAP, *LONG))}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_xdist_auto_num_workers(config):
    """At most one worker per module, because a module is not split; no workers for a single module."""
    from xdist.plugin import pytest_xdist_auto_num_workers as cores

    paths = [Path(argument.partition("::")[0]) for argument in config.args]
    modules = sum(len([*path.rglob("test_*.py")]) if path.is_dir() else 1 for path in paths)
    return 0 if modules < 2 else min(cores(config), modules)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A folder of this session that all workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def own_cache(shared_folder):
    """The cache of evaluators and the key that signs runs are in folders of the session, which all workers share."""
    os.environ["DIFFCORE_CACHE"] = str(shared_folder / "cache")
    os.environ["XDG_CONFIG_HOME"] = str(shared_folder / "config")


@pytest.fixture(scope="module", autouse=True)
def forked_workers(request):
    """Workers of the molecule plugin are forks, which need not import everything again, unless they are the subject."""
    from diffcore_molecule.evaluation import plausibility

    check, forks = plausibility.timeout_map, multiprocessing.get_context("fork")

    def imported(*arguments):
        plausibility._busters()  # here, so that no fork has to
        return check(*arguments)

    def process(*, target, args, daemon):
        pickle.dumps(args[1])  # the function, which a new interpreter would get so
        return forks.Process(target=target, args=args, daemon=daemon)

    with pytest.MonkeyPatch.context() as patch:
        if request.path.name != "test_timeout_pool.py":
            ways = SimpleNamespace(Pipe=forks.Pipe, Process=process)
            patch.setattr("diffcore_molecule.timeout_pool._SPAWN", ways)
            patch.setattr(plausibility, "timeout_map", imported)
        yield


@pytest.fixture(scope="session")
def trained(shared_folder, quick_classifiers) -> TrainedRuns:
    """`trained(out, *flags)` copies a run that is trained once in the session."""
    return TrainedRuns(shared_folder / "trained")


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk(request):
    """Files reach the disk when the system likes, as no test loses power; only those of tests/system are waited for."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "system":
            patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_classifiers():
    """Train the classifiers of evaluators for a tenth of the usual steps.

    Few pictures of joint states are drawn, and samples are compared with few training examples.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr("diffcore.evaluation.classifier._STEPS", 150)
    patch.setattr("diffcore_audio.evaluation.evaluator._STEPS", 60)
    patch.setattr("diffcore.evaluation.neighbours.MOST", 20)
    patch.setattr("diffcore.evaluation.joint.SHOWN", 1)
    patch.setattr("diffcore.evaluation.joint.DRAWS", 1)
    patch.setattr("diffcore_pointcloud.evaluation.evaluator._STEPS", 60)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def processes():
    """The processes in which plugins are tested to build the same data, which import PyTorch once in the session."""
    prepared = PreparedProcesses()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffcore.testing.checks.data.new_process", prepared)
        yield prepared
    prepared.close()


@pytest.fixture(scope="module", autouse=True)
def fewer_pictures(request):
    """Runs of the plugins have pictures of 12 samples, or 2, which take less time than the usual 50."""
    fewer = {"audio": 12, "image": 12, "molecule": 12, "pointcloud": 12, "diffusers": 2}
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in fewer:
            for name in PICTURED:
                patch.setattr(name, fewer[request.path.parent.name])
        yield


@pytest.fixture(scope="module")
def few_pictures():
    """Runs that are trained in this module have pictures of one sample, which take less time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PICTURED:
            patch.setattr(name, 1)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real data sets in their official formats, where a checkout has them."""
    folder = Path(os.environ.get("DIFFCORE_TEST_DATA", HERE / ".." / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing (set DIFFCORE_TEST_DATA)")
    return folder


@pytest.fixture
def float64():
    """The default dtype is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def toy():
    """The toy is the only installed modality."""
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, toy_registry())
        yield
