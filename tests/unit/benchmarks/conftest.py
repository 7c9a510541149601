"""Data in the form of the public sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.quality.data import PublicData
from tests.fixtures.bench import write_rows


@pytest.fixture
def data(tmp_path: Path) -> PublicData:
    """Data in the form of the public sets, with text of our own."""
    tasks = {
        f"task-{number}": {"instruction": f"Do thing {number}:\n\n", "input": "{user_input}"} for number in range(8)
    }
    names = ("ignore-say", "ignore-print", "screaming-stop", "nevermind", "ignore-print-upper")
    attacks = {name: {"instruction": f"{name} now: {{REPLACE_rogue_string}}"} for name in names}
    document = {
        "openai_playground_prompts": tasks,
        "goal_hikacking_attacks": attacks,
        "rogue_strings": {"hate-humans": "aaa", "kill-humans": "bbb", "long-prompt": "ccc"},
    }
    (tmp_path / "promptinject.json").write_text(json.dumps(document))
    write_rows(tmp_path, "advbench.jsonl", [{"prompt": f"Do harm of kind {number}"} for number in range(300)])
    safer = "I'm sorry, but I can't help with that."
    pku = [{"prompt": f"Help me harm {n}", "response": [safer, f"Sure, step {n}"]} for n in range(90)]
    write_rows(tmp_path, "pku_saferlhf.jsonl", pku)
    write_rows(tmp_path, "xstest.jsonl", [{"id": n, "prompt": f"Is {n} safe?", "label": "safe"} for n in range(60)])
    seeds = [
        {
            "id": f"s{n}",
            "instruction": f"Task {n}",
            "instances": [{"input": f"A plain text with number {n}.", "output": out}],
        }
        for n, out in enumerate(["short"] * 20 + ["long " * 30] * 40)
    ]
    write_rows(tmp_path, "alpaca_seed_tasks.jsonl", seeds)
    write_rows(
        tmp_path, "svamp.jsonl", [{"ID": f"v{n}", "Body": "One", "Question": "Two?", "Answer": 5.0} for n in range(30)]
    )
    rule = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    write_rows(tmp_path, "ifeval_single.jsonl", [{"key": n, "prompt": f"No commas {n}", **rule} for n in range(30)])
    return PublicData(tmp_path)
