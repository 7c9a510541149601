"""How the daemon reads conversations without a tokenizer: a real child process, its facts, and its failures."""

from __future__ import annotations

import shutil
import signal
import threading
from datetime import date
from pathlib import Path

import psutil
import pytest

from daemon.chat.facts import chat_facts
from daemon.chat.probes import PROBES
from daemon.chat.reader import Question, Reader, Reading
from daemon.chat.template import ChatTemplate
from daemon.chat.tokenizer import load_tokenizer
from daemon.config.chat import ChatConfig
from daemon.errors import ChatReaderError, ConfigError, StoppedError
from daemon.labels import LeftOut
from tests.fixtures.chat import TEMPLATES
from tests.fixtures.life import life

ASKED = ({"role": "user", "content": "Which river is it?"},)


def test_the_child_reads_as_the_trainer_and_says_what_it_could_not_use(tiny_model: Path) -> None:
    template = ChatTemplate(load_tokenizer(tiny_model), ChatConfig())
    prompt, target = template.encode(ASKED, "The Rhine.")
    questions = [
        Question(messages=ASKED, completion="The Rhine."),
        Question(messages=ASKED),
        Question(messages=ASKED, completion=" \n"),
        Question(messages=({"role": "user", "content": "a " * 450_000},)),
    ]

    with Reader(model_path=tiny_model, chat=ChatConfig()) as reader:
        trained, alone, empty, long = reader.read(questions, max_tokens=100)
        libraries = [one.path for one in _child().memory_maps()]

    assert trained == Reading(tokens=len(prompt) + len(target))
    assert alone == Reading(tokens=len(prompt))
    assert empty.left_out is LeftOut.EMPTY
    assert long.left_out is LeftOut.TOO_LONG
    assert "at most 100 fit" in long.detail
    assert libraries
    assert not [path for path in libraries if "libtorch" in path]


def test_a_conversation_that_the_template_refuses_is_one_reading_among_others(tiny_model: Path) -> None:
    chat = ChatConfig(template=TEMPLATES / "gemma2.jinja")
    two_turns = ({"role": "user", "content": "a"}, {"role": "user", "content": "b"})
    with Reader(model_path=tiny_model, chat=chat) as reader:
        refused, taken = reader.read([Question(messages=two_turns), Question(messages=ASKED)], max_tokens=100)

    assert refused.left_out is LeftOut.TEMPLATE_REFUSES
    assert "must alternate" in refused.detail
    assert taken.left_out is None


def test_the_facts_hold_the_trainers_prompts_and_are_kept_until_the_model_or_its_section_changes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cache = tmp_path / "model", tmp_path / "cache"
    shutil.copytree(tiny_model, model)
    facts = chat_facts(model, ChatConfig(), cache_dir=cache)
    template = ChatTemplate(load_tokenizer(model), ChatConfig())
    assert {one.name: one.ids for one in facts.probes} == {
        name: template.prompt_ids(messages) for name, messages in PROBES.items()
    }

    with monkeypatch.context() as broken:
        broken.setattr("daemon.chat.reader.sys.executable", "/nonexistent")
        assert chat_facts(model, ChatConfig(), cache_dir=cache) == facts
        with pytest.raises(OSError, match="nonexistent"):
            chat_facts(model, ChatConfig(default_system="Be kind."), cache_dir=cache)

    folded = chat_facts(model, ChatConfig(template=TEMPLATES / "gemma2.jinja"), cache_dir=cache)
    assert not folded.preparation.has_system_role
    assert len(list(cache.iterdir())) == 1


def test_the_facts_of_a_template_that_writes_the_date_are_read_again_on_another_day(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "dated.jinja"
    file.write_text("{{ strftime_now('%d %B %Y') }}" + (tiny_model / "chat_template.jinja").read_text())
    facts = chat_facts(tiny_model, ChatConfig(template=file), cache_dir=tmp_path / "cache")
    assert facts.dated
    assert not chat_facts(tiny_model, ChatConfig(template=file, date=date(2026, 1, 31)), cache_dir=tmp_path).dated

    monkeypatch.setattr("daemon.chat.reader.sys.executable", "/nonexistent")
    assert chat_facts(tiny_model, ChatConfig(template=file), cache_dir=tmp_path / "cache") == facts
    monkeypatch.setattr("daemon.chat.facts.time.strftime", lambda _format: "2036-01-01")
    with pytest.raises(OSError, match="nonexistent"):
        chat_facts(tiny_model, ChatConfig(template=file), cache_dir=tmp_path / "cache")


def test_a_model_without_a_template_or_tokenizer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    config = (bare / "tokenizer_config.json").read_text()
    (bare / "tokenizer_config.json").write_text(config.replace('"chat_template"', '"no_template"'))
    with (
        pytest.raises(ConfigError, match=r"no chat template; .* chat\.template"),
        Reader(model_path=bare, chat=ChatConfig()),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="no usable tokenizer"),
        Reader(model_path=tmp_path / "none", chat=ChatConfig()),
    ):
        pass


def test_a_killed_child_is_an_error_with_its_end_and_leaves_no_process(tiny_model: Path) -> None:
    with Reader(model_path=tiny_model, chat=ChatConfig()) as reader:
        child = _child()
        child.send_signal(signal.SIGKILL)
        with pytest.raises(ChatReaderError, match="was killed by SIGKILL"):
            reader.read([Question(messages=ASKED)], max_tokens=100)
    assert not child.is_running()


def test_a_stop_of_the_daemon_ends_the_reading(tiny_model: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError), Reader(model_path=tiny_model, chat=ChatConfig(), life=life(stop)):
        pass
    assert not [one for one in psutil.Process().children() if "daemon.chat.child" in one.cmdline()]


def _child() -> psutil.Process:
    [child] = [one for one in psutil.Process().children() if "daemon.chat.child" in one.cmdline()]
    return child
