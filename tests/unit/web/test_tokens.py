"""Token files that change while the daemon runs."""

from __future__ import annotations

from pathlib import Path

from daemon.config.web import HttpConfig
from daemon.web.tokens import Tokens


def test_a_token_that_becomes_unreadable_or_equal_to_another_is_left_out_until_it_is_right_again(
    tmp_path: Path,
) -> None:
    files = {name: tmp_path / name for name in ("ann", "bob")}
    for name, file in files.items():
        file.write_text(f"the token of {name}")
    tokens = Tokens(
        HttpConfig.model_validate(
            {"tokens": [{"name": name, "role": "operator", "token_file": file} for name, file in files.items()]}
        )
    )

    def names(content: str) -> list[str]:
        files["bob"].write_text(content)
        return [token.name for token in tokens.now()]

    assert names("a new one") == ["ann", "bob"]
    assert names("the token of ann") == ["ann"]
    assert names("") == ["ann"]
    assert names("schlüssel") == ["ann"]
    assert names("another new one") == ["ann", "bob"]
    files["bob"].unlink()
    assert [token.name for token in tokens.now()] == ["ann"]
