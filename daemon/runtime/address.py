"""Where the daemon of a data directory answers: a command that finds it need not import configuration and store."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "address.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """`url`: of an API that every local user may use. `owner`: the daemon's name beside its stages, new at each start.

    The file stays when the daemon is killed: it is right if the API at the URL names the owner.
    """

    url: str
    owner: str


def announce(data_dir: Path, address: Address | None) -> None:
    """Write the address for the user of the daemon. None: remove what another start has written."""
    file = data_dir / FILE
    if address is None:
        file.unlink(missing_ok=True)
        return
    partial = file.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as written:
        json.dump(asdict(address), written)
    partial.replace(file)


def announced(data_dir: Path) -> Address | None:
    """The address that was written last, if it can be read."""
    try:
        return Address(**json.loads((data_dir / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
