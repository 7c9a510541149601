"""Contexts: the file, the commands, and the choice of the server that a command talks to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.cli.contexts import Contexts, chosen, contexts_file
from daemon.cli.server import Server
from daemon.errors import ConfigError
from tests.fixtures.cli import Command

SECRET = "a-secret-token"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_context_is_set_used_listed_and_deleted(erratad: Command, token_file: Path) -> None:
    assert erratad("context", "list").stdout.startswith("No contexts;")
    server = ("--server", "https://erratad.example.com", "--token-file", str(token_file))
    assert erratad("context", "set", "prod", *server).exit_code == 0
    assert Contexts.read().current is None, "a command goes to a server only after it was chosen"
    assert erratad("context", "use", "prod").stdout == "prod is the current context\n"
    listed = erratad("context", "list")
    assert "prod" in listed.stdout
    [row] = json.loads(erratad("context", "list", "--json").stdout)
    assert row == {
        "name": "prod",
        "current": True,
        "server": "https://erratad.example.com",
        "token_file": str(token_file),
    }
    assert SECRET not in contexts_file().read_text() + listed.stdout
    assert erratad("context", "use").stdout == "no context is current\n"
    assert erratad("context", "delete", "prod").stdout == "deleted prod\n"
    assert Contexts.read() == Contexts()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("use", "test"), "there is no context 'test'"),
        (("delete", "test"), "there is no context 'test'"),
        (("set", "a b", "--server", "http://x"), "no name for a context"),
        (("set", "a", "--server", "erratad.example.com"), "not the URL of a server"),
        (("set", "a", "--server", "ftp://x"), "not the URL of a server"),
        (("set", "a", "--server", "http://x:99999"), "not the URL of a server"),
        (("set", "a", "--server", "http://x?token=1"), "not the URL of a server"),
        (("set", "a", "--server", "http://user:word@x"), "must not hold a user or password"),
        (("set", "a", "--server", "http://x", "--token-file", "/nonexistent/token"), "cannot be read"),
    ],
)
def test_a_wrong_context_is_told_and_changes_nothing(erratad: Command, arguments: tuple[str, ...], said: str) -> None:
    refused = erratad("context", *arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert not contexts_file().exists()


@pytest.mark.parametrize("text", ["- a", "contexts: [a]", "contexts: {a: {url: http://x}}", "contexts: {a: 1}", "{"])
def test_an_unusable_file_names_itself(erratad: Command, text: str) -> None:
    contexts_file().write_text(text)
    refused = erratad("context", "list")
    assert refused.exit_code == 2
    assert str(contexts_file()) in refused.stderr


def test_a_token_that_other_users_can_read_is_refused(token_file: Path) -> None:
    assert Server(url="http://x", token_file=token_file).token == SECRET
    token_file.chmod(0o640)
    assert Server(url="http://x", token_file=token_file).token == SECRET
    token_file.chmod(0o604)
    with pytest.raises(ConfigError, match="chmod 600") as told:
        _ = Server(url="http://x", token_file=token_file).token
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("content", [b"", b"\n", "schlüssel".encode(), b"two\nlines", b"\xff"])
def test_a_file_without_a_usable_token_is_refused(token_file: Path, content: bytes) -> None:
    token_file.write_bytes(content)
    with pytest.raises(ConfigError, match="token file"):
        _ = Server(url="http://x", token_file=token_file).token


def test_an_option_comes_before_the_environment_and_that_before_the_current_context(
    monkeypatch: pytest.MonkeyPatch, token_file: Path
) -> None:
    prod = Server(url="http://prod", token_file=token_file)
    Contexts(servers={"prod": prod, "test": Server(url="http://test")}, current="prod").write()
    assert chosen({}, local=False) == prod
    assert chosen({"context": "test"}, local=False) == Server(url="http://test")
    assert chosen({}, local=True) is None, "--config is a store of this machine"
    monkeypatch.setenv("ERRATAD_CONFIG", "erratad.yaml")
    assert chosen({}, local=False) is None
    monkeypatch.setenv("ERRATAD_SERVER", "http://environment")
    monkeypatch.setenv("ERRATAD_TOKEN_FILE", str(token_file))
    assert chosen({}, local=False) == Server(url="http://environment", token_file=token_file)
    assert chosen({}, local=True) is None
    assert chosen({"context": "test"}, local=False) == Server(url="http://test"), "its token is not another one's"
    given = {"server": "http://option", "token_file": Path("mine"), "ca_file": Path("ca")}
    assert chosen(given, local=False) == Server(url="http://option", token_file=Path("mine"), ca_file=Path("ca"))
    for wrong in ({"server": "http://x", "context": "prod"}, {"context": "none"}):
        with pytest.raises(ConfigError):
            chosen(wrong, local=False)
    with pytest.raises(ConfigError, match="not both"):
        chosen({"server": "http://x"}, local=True)
