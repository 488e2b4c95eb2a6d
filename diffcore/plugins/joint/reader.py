"""Reads the files of a side of joint states with the reader of its own kind of data."""

from pathlib import Path

from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.joint.codec import JointCodec
from diffcore.plugins.output import Side
from diffcore.plugins.reading import read_all


class JointReader:
    """Reads a file, or all files of a folder, as a side of joint states."""

    def __init__(self, codec: JointCodec) -> None:
        self.codec = codec

    def read_side(self, name: str, path: Path) -> Side:
        """The side `name` of the files. Raises `UserError` if there are none, or if they cannot be read."""
        modality = self.codec.modalities[name]
        if modality.reader is None:
            raise UserError(f"`given` {name}: the plugin for {name} cannot read files")
        reader = part_of(modality, "reader", self.codec.sides[name])
        endings = getattr(reader, "endings", None)
        files = [path]
        if path.is_dir():
            files = sorted(each for each in path.iterdir() if endings is None or each.suffix.lower() in endings)
        if not files or not files[0].exists():
            raise UserError(f"`given` {name}: there is no file of {name} at {path}")
        state, mask = read_all(reader, files, "given", name)
        return Side(self.codec.fields_of(name, state), mask)
