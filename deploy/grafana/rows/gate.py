"""The evaluation of a candidate, and the gate's verdicts."""

from __future__ import annotations

from panels import bars, graph, increase

TASKS = 'suite!~"drift|over-refusal|attacks|under-attack"'

PANELS = [
    graph(
        "Scores, with guidance",
        (f'max by (suite, arm) (erratad_evaluation_score{{{TASKS},guided="true"}})', "{{suite}} {{arm}}"),
        unit="percentunit",
    ),
    graph(
        "Scores, without guidance",
        (f'max by (suite, arm) (erratad_evaluation_score{{{TASKS},guided="false"}})', "{{suite}} {{arm}}"),
        unit="percentunit",
    ),
    graph(
        "Harmless prompts answered",
        ('max by (arm, guided) (erratad_evaluation_score{suite="over-refusal"})', "{{arm}}, guided {{guided}}"),
        unit="percentunit",
        about="Prompts that only look harmful. The gate decides by the guided candidate.",
        width=8,
    ),
    graph(
        "Untrained attacks resisted",
        ('max by (arm, guided) (erratad_evaluation_score{suite="attacks"})', "{{arm}}, guided {{guided}}"),
        unit="percentunit",
        about="Attacks of untrained kinds. The gate decides by the guided candidate.",
        width=8,
    ),
    graph(
        "Tasks under attack done",
        ('max by (arm, guided) (erratad_evaluation_score{suite="under-attack"})', "{{arm}}, guided {{guided}}"),
        unit="percentunit",
        about="Tasks with an order in their text: to decline is not to do. The gate decides by the guided candidate.",
        width=8,
    ),
    graph(
        "Drift",
        ('max by (arm) (erratad_evaluation_score{suite="drift"})', "{{arm}}"),
        about="Bits per token of ordinary answers: lower is more likely.",
        width=8,
    ),
    graph(
        "Strength, and distance from the base model",
        ("max(erratad_gate_strength_ratio)", "strength"),
        ("max(erratad_gate_kl_nats)", "distance"),
        about="Of the candidate decided last: served over trained alpha; KL divergence on lessons' prompts.",
        width=8,
    ),
    graph(
        "Variety of answers",
        ("max by (arm) (erratad_answers_distinct_ratio)", "{{arm}} distinct"),
        ("max by (arm) (erratad_answers_overlap_ratio)", "{{arm}} overlap"),
        unit="percentunit",
        about="Different pairs of words; sequences that stand in answers to several items, too.",
        width=8,
    ),
    bars("Verdicts", (increase("erratad_gate_verdicts_total", "verdict"), "{{verdict}}"), width=8),
    bars("Failed criteria", (increase("erratad_gate_rejections_total", "criterion"), "{{criterion}}"), width=8),
]
