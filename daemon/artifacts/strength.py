"""The same weights at a lower strength: a folder of its own, in which lora_alpha is scaled.

LoRA adds alpha / r times B A to a layer, so a smaller alpha is a smaller step in the same direction. A server reads
alpha once, with the folder. So each strength has a name and a folder of its own, and its manifest says the strength.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from daemon.adapter_names import FULL_STRENGTH, strength_name
from daemon.artifacts.adapter import CONFIG_FILE, MANIFEST_FILE, Manifest, read_json, read_manifest
from daemon.artifacts.files import fresh_partial, publish, sha256_file
from daemon.errors import AdapterInvalidError


def weakened(folder: Path, strength: float) -> Path:
    """Make the folder of a trained adapter at a lower strength, beside it. It is complete or absent, as any adapter.

    Raises:
        AdapterInvalidError: if the trained adapter cannot be read, or other weights are at that place.
        OSError: if the folder cannot be written.
    """
    if strength == FULL_STRENGTH:
        return folder
    target = folder.with_name(strength_name(folder.name, strength))
    trained = read_manifest(folder)
    if target.exists():
        if read_manifest(target).weights_sha256 != trained.weights_sha256:
            raise AdapterInvalidError(
                f"{target} holds other weights than {folder}; move it away: no name is used twice"
            )
        return target
    partial = fresh_partial(target)
    for file in sorted(trained.files.keys() - {CONFIG_FILE}):
        _link(folder / file, partial / file)
    config = read_json(folder / CONFIG_FILE)
    config["lora_alpha"] = _number(strength * float(config["lora_alpha"]))
    (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (partial / MANIFEST_FILE).write_bytes(_manifest(trained, target.name, strength, partial).encode())
    publish(partial, target)
    return target


def _manifest(trained: Manifest, name: str, strength: float, folder: Path) -> Manifest:
    lineage = trained.lineage.model_copy(update={"kl_to_base": trained.lineage.kl_by_strength.get(str(strength))})
    files = {**trained.files, CONFIG_FILE: sha256_file(folder / CONFIG_FILE)}
    return trained.model_copy(update={"name": name, "strength": strength, "files": files, "lineage": lineage})


def _link(source: Path, target: Path) -> None:
    """Both folders share the bytes of the weights where the file system can; adapters are never changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value
