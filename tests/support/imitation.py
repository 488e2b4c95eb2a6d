"""A stranger's task that trains a denoiser: a student that begins with the weights of a teacher's run."""

from diffcore.denoising.losses import weighted_loss
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import API_VERSION, Place, Settings, Task, lazy

__all__ = ["API_VERSION", "diffcore_tasks"]


class ImitateOptions(Settings):
    teacher: Place = None


def initialise(model, settings):
    import diffcore

    model.network.load_state_dict(diffcore.load(settings.task.teacher).model.network.state_dict())


def loss(model, batch, settings):
    """The loss of x0 where the denoiser learns that of the noise."""
    prediction = model.denoiser(batch.noisy, batch.level, batch.kept_conditions, batch.mask)
    return weighted_loss(prediction, batch.x0, batch.noise, model.codec.space, "x0", batch.mask)


@hookimpl
def diffcore_tasks():
    part, core, evaluation = lazy("tests.support"), lazy("diffcore.tasks"), lazy("diffcore.evaluation")
    return [
        Task(
            "imitate",
            "a student of another run",
            core("denoise:network"),
            ImitateOptions,
            loss=part("imitation:loss"),
            initialise=part("imitation:initialise"),
            evaluate=evaluation("samples:evaluate"),
            pictures=evaluation("samples:pictures"),
            draws=True,
            helps=("weak",),
        )
    ]
