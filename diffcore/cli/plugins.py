"""`diffcore plugins`: what is installed, and what cannot be used and why."""

import json
from collections.abc import Sequence
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import missing
from diffcore.plugins.registry import RECORDS, Provided, Registry


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print("usage: diffcore plugins [--json]\n\nWhat is installed, and what cannot be used and why.")
        return 0
    if unknown := [argument for argument in arguments if argument != "--json"]:
        raise UserError(f"unknown option {unknown[0]!r}; diffcore plugins takes --json")
    registry = plugins.installed()
    listing = describe(registry)
    print(json.dumps(listing, indent=2) if arguments else as_text(listing))
    return 0


def describe(registry: Registry) -> dict[str, Any]:
    """The registry as plain values."""

    def rows(offered: dict[str, Provided]) -> list[dict[str, Any]]:
        return [
            {
                "name": provided.record.name,
                "summary": provided.record.summary,
                "distribution": provided.distribution,
                "version": provided.version,
                "missing": missing(provided.record),
            }
            for provided in offered.values()
        ]

    modalities = rows(registry.modalities)
    for row in modalities:
        record = registry.modality(row["name"])
        row["data"] = [component.name for component in record.datasets]
        row["denoisers"] = [component.name for component in record.denoisers]
        row["classifiers"] = [component.name for component in record.classifiers]
        row["autoencoders"] = [component.name for component in record.networks_of("autoencoder")]
        row["presets"] = {name: preset.summary for name, preset in record.presets.items()}
    return {
        "modalities": modalities,
        **{kind: rows(getattr(registry, kind)) for kind in RECORDS if kind != "modalities"},
        "failed": [vars(failure) for failure in registry.failures],
        "installable": registry.installable(),
    }


def as_text(listing: dict[str, Any]) -> str:
    """The listing for people."""
    lines = []
    for kind in RECORDS:
        if listing[kind]:
            lines.append(kind.replace("_", " "))
        for row in listing[kind]:
            lacks = f"; needs {', '.join(row['missing'])}" if row["missing"] else ""
            lines.append(f"  {row['name']:12} {row['summary']}  ({row['distribution']} {row['version']}{lacks})")
            for part in ("data", "denoisers", "classifiers", "autoencoders", "presets"):
                if row.get(part):
                    lines.append(f"  {'':12}   {part}: {', '.join(row[part])}")
    if listing["failed"]:
        lines.append("failed")
        lines += [f"  {row['plugin']:12} {row['reason']}  ({row['distribution']})" for row in listing["failed"]]
    if listing["installable"]:
        lines += ["could be installed", *(f"  {command}" for command in listing["installable"])]
    return "\n".join(lines)
