"""The tasks of the core."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import CLEAN_BATCH, IN_TRAINING, Place, Settings, Task, lazy


class DenoiseOptions(Settings):
    """Options of the task `denoise`."""

    self_conditioning: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the examples for which the network predicts twice, the second time given its first "
        "estimate. With any, each step of sampling is given the estimate of the step before.",
    )


class EncodeOptions(Settings):
    """Options of the task `encode`."""

    regularisation: Literal["noise", "kl", "none"] = Field(
        "noise", description="noise: latents with noise at log_snr; kl: a Gaussian around each latent; none: neither."
    )
    log_snr: float = Field(
        5.0, ge=0, le=20, description="For noise: log-SNR of the latents that are decoded, where sampling will end."
    )
    kl_weight: float = Field(
        1e-6, ge=0, description="For kl: weight of the divergence from a standard normal, in nats per sample."
    )
    equivariance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the examples that are decoded from a transformed latent to the transformed state.",
    )


class DistillOptions(Settings):
    """Options of the task `distill`."""

    teacher: Annotated[Place, IN_TRAINING] = Field(None, description="Folder of the run that is the teacher.")
    checkpoint: str | None = Field(None, description="Name of the teacher's checkpoint; the newest by default.")
    segments: int = Field(4, ge=1, le=100, description="In how many steps the student draws.")
    teacher_guidance: float = Field(
        1.0, description="Weight of the teacher's classifier-free guidance, which is learned too."
    )
    path: int = Field(
        8, ge=1, le=2**16, description="In how many steps the teacher goes through a segment, to show where it ends."
    )
    reuse: int = Field(8, ge=1, description="How often the student learns from each of the teacher's paths.")


@hookimpl
def diffcore_tasks() -> Iterable[Task]:
    """The first is the default."""
    task, evaluation = lazy("diffcore.tasks"), lazy("diffcore.evaluation")
    return (
        Task(
            "denoise",
            "a denoiser, which draws samples",
            task("denoise:network"),
            DenoiseOptions,
            loss=task("denoise:loss"),
            losses_by_field=task("denoise:losses_by_field"),
            evaluate=evaluation("samples:evaluate"),
            pictures=evaluation("samples:pictures"),
            report=evaluation("denoising:report"),
            loss_label="loss per degree of freedom",
            draws=True,
            helps=("weak", "teacher"),
        ),
        Task(
            "distill",
            "a student, which draws in a few steps what another run draws in many",
            task("distill:network"),
            DistillOptions,
            loss=task("distill:loss"),
            losses_by_field=task("distill:losses_by_field"),
            draw=task("distill:draw"),
            initialise=task("distill:initialise"),
            evaluate=evaluation("beside_teacher:evaluate"),
            pictures=evaluation("samples:pictures"),
            report=evaluation("beside_teacher:report"),
            loss_label="distance to the target",
            draws=True,
            flow=False,
        ),
        Task(
            "classify",
            "a classifier of noisy states, which guides a denoiser of the same data",
            task("classify:network"),
            network="classifier",
            loss=task("classify:loss"),
            losses_by_field=task("classify:losses_by_field"),
            evaluate=evaluation("noisy_classifier:evaluate"),
            loss_label="negative log-likelihood, nats",
            helps=("classifier",),
            advice="let it guide a model of the same data as `classifier` {run}",
        ),
        Task(
            "encode",
            "an autoencoder, in whose latents other runs diffuse",
            task("encode:network"),
            EncodeOptions,
            network="autoencoder",
            loss=task("encode:loss"),
            losses_by_field=task("encode:losses_by_field"),
            draw=CLEAN_BATCH,
            evaluate=evaluation("reconstruction:evaluate"),
            pictures=evaluation("reconstruction:pictures"),
            loss_label="loss of reconstruction",
            helps=("latent",),
            advice="train a model in its latents with `latent` {run}",
        ),
    )
