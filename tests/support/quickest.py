"""Flags of the quickest run of each kind of data, which tests share (`tests.support.runs.TrainedRuns`)."""

_FLAGS = ("--train.steps", "2", "--train.evaluate", "0", "--train.batch-size", "8")
QUICKEST = {
    "image": ("--modality", "image", "--denoiser.width", "8", *_FLAGS),
    "audio": ("--modality", "audio", "--data.sounds", "60", "--denoiser.width", "16", *_FLAGS),
    "molecule": ("--modality", "molecule", "--denoiser.width", "16", "--denoiser.depth", "1", *_FLAGS),
    "pointcloud": ("--modality", "pointcloud", "--denoiser.width", "32", "--denoiser.depth", "1", *_FLAGS),
}
