"""`diffcore new-plugin NAME`: a small package that installs and runs as it is, to be edited."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.errors import UserError
from diffcore.names import PluginKind
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Settings
from diffcore.plugins.scaffold import FEATURES, check_name, filled, read_features, template_of, write_package

_WITH = "; ".join(f"{word}: {meaning}" for word, meaning in FEATURES.items())


class Options(Settings):
    """The options of `diffcore new-plugin`."""

    name: tyro.conf.Positional[str]
    """What it will be called on the command line: small letters, digits and dashes."""
    kind: PluginKind = Field("modality", description="What the plugin offers.")
    out: Path | None = Field(None, description="The folder to write; diffcore-NAME by default.")
    serves: Annotated[str | None, tyro.conf.arg(name="for")] = Field(
        None, description="A data set: the kind of data that it is of."
    )
    features: Annotated[str | None, tyro.conf.arg(name="with", metavar="mask,scalar,fields")] = Field(
        None, description=f"A kind of data: what its example shows, words separated by commas. {_WITH}."
    )


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments, "diffcore new-plugin", "Write a small plugin package to start from.")
    if options.features is not None and options.kind != "modality":
        raise UserError(f"--with belongs to --kind modality; a {options.kind} has none of {', '.join(FEATURES)}")
    features = frozenset() if options.features is None else read_features(options.features)
    registry, template = plugins.installed(), template_of(options.kind, features)
    if options.serves is not None and not template.serves:
        raise UserError(f"--for belongs to --kind dataset; a {options.kind} is not of one kind of data")
    serves = options.serves or template.serves
    if serves:
        registry.modality(serves)
    check_name(options.name, template.records, registry, serves)
    out = options.out or Path(f"diffcore-{options.name}")
    files = write_package(options.kind, options.name, out, serves, features)
    print(f"{out}: {template.summary}, {len(files)} files; README.md explains it. Next:\n\n  pip install -e {out}")
    for line in template.next:
        print("  " + filled(line, {"NAME": options.name, "SERVES": serves}))
    return 0
