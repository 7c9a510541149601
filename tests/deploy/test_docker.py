"""The image, by hadolint and shellcheck, without a container engine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.fixtures.deploy import DEPLOY, ROOT, checked, tool


def test_the_dockerfile_passes_hadolint() -> None:
    checked(tool("hadolint"), DEPLOY / "docker" / "Dockerfile")


def test_every_shell_script_passes_shellcheck() -> None:
    checked(tool("shellcheck"), *sorted(DEPLOY.rglob("*.sh")), ROOT / ".ci" / "run")


def test_the_image_is_pinned_and_does_not_run_as_root() -> None:
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
    stages = [found.groups() for line in lines if (found := re.match(r"FROM (\S+) AS (\S+)$", line))]
    named = {name for _, name in stages}
    outside = [image for image, _ in stages if image not in named]
    assert outside == [image for image in outside if re.search(r":\d+\.\d+\.\d+-", image)]
    for target in ("cpu", "gpu"):
        start = lines.index(f"FROM runtime AS {target}")
        body = lines[start : next((n for n, line in enumerate(lines[start + 1 :], start + 1) if "FROM" in line), None)]
        assert [line for line in body if line.strip()][-1] == "USER 10001:10001", target


def copied_by_the_dockerfile() -> Iterator[str]:
    for line in (DEPLOY / "docker" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            yield from sources


def test_all_that_the_image_copies_is_in_the_context_and_little_else(build_context: Path) -> None:
    assert [source for source in copied_by_the_dockerfile() if not (build_context / source).exists()] == []
    assert not {"tests", ".git", "var", ".venv"} & {path.name for path in build_context.iterdir()}
    assert not (build_context / "deploy" / "compose").exists()


def test_the_entry_point_takes_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "erratad").write_text('#!/bin/sh\necho "$ERRATAD_HTTP_TOKEN/${ERRATAD_HTTP_TOKEN_FILE-gone}/$*"\n')
    (tmp_path / "erratad").chmod(0o755)
    secret = tmp_path / "token"
    secret.write_text("a b'$x\n")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "ERRATAD_HTTP_TOKEN_FILE": str(secret)}
    entry = str(DEPLOY / "docker" / "entrypoint.sh")
    done = subprocess.run([entry, "run"], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "a b'$x/gone/run\n"
    secret.unlink()
    missing = subprocess.run([entry, "run"], env=environment, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "ERRATAD_HTTP_TOKEN_FILE" in missing.stderr
