"""The image's build steps, run in a clean directory, and the resulting erratad, started as in a container.

Only the dependencies' download is left out: the new environment uses the packages of the tests' environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
import yaml

from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.image import ROOT
from tests.fixtures.ports import free_port

DOCKER = ROOT / "deploy" / "docker"
TOKEN = "an-http-token"


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment without this checkout."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ERRATAD", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture
def installed(build_context: Path, tmp_path: Path) -> Path:
    """The programs' folder after the steps of the Dockerfile: dependencies, wheel, then the wheel on top."""
    venv = tmp_path / "opt"
    stub = shutil.copytree(
        build_context, tmp_path / "stub", symlinks=True, ignore=shutil.ignore_patterns("connectors", "daemon")
    )
    for package in ("connectors", "daemon"):
        (stub / package).mkdir()
        shutil.copy(build_context / package / "__init__.py", stub / package)
    pip = [sys.executable, "-m", "pip"]  # its setuptools builds the wheel without a download
    steps = [
        (stub, ["deploy/docker/install.sh", venv, "cpu", ".[cpu,kubernetes,s3]"]),
        (build_context, [*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path / "wheel", "."]),
        (tmp_path, ["sh", "-c", f"{venv}/bin/pip install --no-deps --force-reinstall {tmp_path}/wheel/*.whl"]),
    ]
    for folder, command in steps:
        done = run(*command, cwd=folder, PIP_NO_DEPS="1", PYTHON=sys.executable)
        assert done.returncode == 0, done.stdout + done.stderr
    [site] = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return venv / "bin"


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, fake_vllm: FakeVllm) -> Path:
    """Compose's configuration, with this machine's addresses."""
    values = yaml.safe_load((ROOT / "deploy" / "compose" / "erratad.yaml").read_text())
    values["data_dir"] = str(tmp_path / "state")
    values["model"]["path"] = str(tiny_model)
    values["store"] = {}
    values["intake"] = {}
    values["serving"]["urls"] = [fake_vllm.url]
    values["http"]["port"] = free_port()
    path = tmp_path / "erratad.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def secrets_in(folder: Path) -> Mapping[str, str]:
    """Secret files, as Compose mounts them, and the variables that name them."""
    named = {}
    for name, value in (("ADMIN_TOKEN", ADMIN_TOKEN), ("HTTP_TOKEN", TOKEN), ("VLLM_API_KEY", "a-key")):
        (folder / name).write_text(value + "\n")
        named[f"ERRATAD_{name}_FILE"] = str(folder / name)
    return named


def until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    pytest.fail(f"{url} was not ready in time")


@pytest.mark.slow
def test_the_images_steps_install_an_erratad_that_checks_runs_and_stops(
    installed: Path, config: Path, tmp_path: Path, fake_vllm: FakeVllm
) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ERRATAD", "VIRTUAL_ENV"))},
        **secrets_in(tmp_path),
        "PATH": f"{installed}:/usr/bin:/bin",
        "ERRATAD_CONFIG": str(config),
    }
    entry = DOCKER / "entrypoint.sh"
    where = run(installed / "python", "-c", "import daemon; print(daemon.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(installed.parent)), "the checkout is not what is tested here"
    checked = run(entry, "check-config", cwd=tmp_path, **environment)
    assert checked.returncode == 0, checked.stderr

    process = subprocess.Popen([str(entry), "run"], env=environment, cwd=tmp_path)
    try:
        port = yaml.safe_load(config.read_text())["http"]["port"]
        url = f"http://127.0.0.1:{port}"
        until_ready(url, process)
        assert httpx.get(f"{url}/livez").status_code == 200
        console = httpx.get(url, follow_redirects=True)
        assert (console.status_code, "Sign in" in console.text) == (200, True), "the console's templates are installed"
        said = run(entry, "status", cwd=tmp_path, **environment)
        assert "The daemon runs" in said.stdout
        assert httpx.get(f"{fake_vllm.url}/erratad/v1/ready").status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
