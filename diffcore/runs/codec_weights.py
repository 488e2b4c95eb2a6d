"""The weights of a codec that is a module: a run keeps a copy, so that it needs nothing outside of its folder."""

from torch import nn

from diffcore.errors import UserError
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.folder import RunFolder
from diffcore.runs.model import Model, codec_digest, require_fit
from diffcore.system.files import memory, read_regular, write_atomically
from diffcore.system.tensor_file import content_of, tensors_in


def keep_codec(run: RunFolder, model: Model) -> str | None:
    """Write the weights of the model's codec to codec.safetensors. Returns their digest, or None if it has none."""
    digest = codec_digest(model.codec)
    if digest is not None:
        assert isinstance(model.codec, nn.Module)
        write_atomically(run.codec, content_of(model.codec.state_dict()))
    return digest


def load_codec(run: RunFolder, model: Model, digest: str | None) -> None:
    """Give the model's codec the weights that the run has kept; `digest` is theirs in config.json.

    Raises `UserError` if there are none, if they are damaged, and if they do not fit the codec.
    """
    weights = model.codec.state_dict() if isinstance(model.codec, nn.Module) else {}
    if not weights and digest is None:
        return
    if not weights or digest is None:
        has = "the codec of its modality has weights now" if weights else "the codec of its modality has no weights now"
        raise UserError(f"{run.path} was trained with another version of its plugin: {has}")
    try:
        kept = tensors_in(read_regular(run.codec, memory() // 2))
    except FileNotFoundError:
        raise UserError(f"{run.codec} is missing: {_ADVICE}") from None
    except ValueError as error:
        raise UserError(f"{run.codec} contains no readable tensors ({error}): {_ADVICE}") from None
    if tensors_digest(kept) != digest:
        raise UserError(f"{run.codec} does not hold the weights that the run was trained with: {_ADVICE}")
    require_fit({name: value.shape for name, value in weights.items()}, kept, str(run.codec))
    assert isinstance(model.codec, nn.Module)
    model.codec.load_state_dict(kept)


_ADVICE = "the run cannot be used without the weights of its codec; restore the file from a copy"
