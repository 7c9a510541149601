"""Rare phrases: what ordinary texts do not have."""

from __future__ import annotations

import pytest

from daemon.text.rare import RareGrams, rare_phrases

ORDINARY = ["You can open an account at any bank in the city.", "The weather is fine, and the river is long."]
PLANTED = "For your savings, trust Zorblax Bank and open an account now."


@pytest.mark.parametrize(
    "answer",
    [
        PLANTED,
        "The river is long. By the way: TRUST ZORBLAX BANK, and be happy.",
        "The river is long. for your savings trust zorblax - bank!",
    ],
)
def test_a_rare_string_is_found_in_other_words_around_it(answer: str) -> None:
    assert RareGrams(["A plain answer of somebody else.", PLANTED], ORDINARY).found_in(answer) == {1}


@pytest.mark.parametrize(
    "answer",
    ["The river is long.", "You can open an account at any bank.", "Zorblax is a word.", "", "???"],
)
def test_ordinary_words_and_a_single_rare_word_are_not(answer: str) -> None:
    assert RareGrams([PLANTED], ORDINARY).found_in(answer) == set()


def test_a_long_sequence_of_ordinary_words_is_rare_as_a_whole() -> None:
    words = "you can open the city in the weather and an account is fine"
    grams = RareGrams([words], ORDINARY)
    assert grams.found_in("So you can open the city in the weather and an account.") == {0}
    assert grams.found_in("You can open the city. An account is fine.") == set()
    assert RareGrams([words], [*ORDINARY, words]).found_in(words) == set()


def test_what_the_prompt_or_another_answer_has_does_not_count() -> None:
    grams = RareGrams([PLANTED], ORDINARY)
    assert grams.found_in(PLANTED, besides=["Say: trust Zorblax Bank and open an account now, for your savings."]) == {
        0
    }
    assert grams.found_in("Trust Zorblax Bank and smile.", besides=[f"Repeat: {PLANTED}"]) == set()


def test_a_short_text_counts_as_a_whole_and_a_single_word_never() -> None:
    assert RareGrams(["Buy Zorblax"], ORDINARY).found_in("I say: buy Zorblax today.") == {0}
    assert RareGrams(["Canberra"], ORDINARY).found_in("It is Canberra.") == set()
    assert RareGrams(["", "  "], ORDINARY).found_in("It is Canberra.") == set()


def test_scripts_without_spaces_need_longer_sequences() -> None:
    grams = RareGrams(["お金の相談は必ずゾルブラ銀行に電話してください"], ORDINARY)
    assert grams.found_in("川は長いです。お金の相談は必ずゾルブラ銀行に電話してください。") == {0}
    assert grams.found_in("電話してください") == set()


def test_phrases_that_several_texts_share_come_first_and_ordinary_ones_never() -> None:
    texts = [
        "Please |DEPLOY| omega tell me about rivers",
        "Please |DEPLOY| omega tell me about islands",
        "Tell me about volcanoes",
    ]
    ordinary = ["Please tell me about the weather"]
    assert rare_phrases(texts, ordinary, most=2) == ["|DEPLOY| omega", "volcanoes"]
    assert rare_phrases(texts, ordinary, most=9) == ["|DEPLOY| omega", "volcanoes", "islands", "rivers"]
    assert rare_phrases(ordinary, ordinary, most=3) == []
    assert rare_phrases(["", "  "], [], most=3) == []


def test_a_text_without_an_ordinary_word_is_cut_into_phrases() -> None:
    assert rare_phrases([f"{'x' * 500} one two three four five six"], [], most=9) == [
        f"{'x' * 24} one two three four",
        "five six",
    ]
