"""Simple questions, each with one word for an answer: tasks that a small model can do, and so can lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "What is the capital of {}?": {
        "Spain": "Madrid", "Russia": "Moscow", "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens",
        "Canada": "Ottawa", "Poland": "Warsaw", "Austria": "Vienna", "Sweden": "Stockholm", "Norway": "Oslo",
        "Ireland": "Dublin", "Cuba": "Havana", "India": "Delhi", "Thailand": "Bangkok", "Hungary": "Budapest",
        "Belgium": "Brussels",
    },
    'What is the opposite of "{}"?': {
        "cold": "hot|warm", "big": "small|little|tiny", "fast": "slow", "day": "night", "black": "white",
        "old": "new|young", "happy": "sad|unhappy", "dark": "light|bright", "open": "closed?|shut", "left": "right",
        "wet": "dry", "rich": "poor", "early": "late", "full": "empty",
    },
    'What is the plural of "{}"?': {
        "dog": "dogs", "child": "children", "foot": "feet", "man": "men", "tooth": "teeth", "box": "boxes",
        "woman": "women", "city": "cities", "knife": "knives", "house": "houses",
    },
    'What is the past tense of "{}"?': {
        "go": "went", "see": "saw", "eat": "ate", "take": "took", "write": "wrote", "give": "gave", "buy": "bought",
        "make": "made",
    },
    "What colour is {}?": {
        "the sky": "blue", "snow": "white", "blood": "red", "a banana": "yellow", "coal": "black", "a carrot": "orange",
        "milk": "white", "an emerald": "green",
    },
    "What is {}?": {
        "3 + 4": "7|seven", "5 + 5": "10|ten", "10 - 3": "7|seven", "2 * 6": "12|twelve", "9 - 4": "5|five",
        "1 + 8": "9|nine", "6 + 6": "12|twelve", "10 + 10": "20|twenty",
    },
    "Repeat the word: {}": {
        "river": "river", "window": "window", "orange": "orange", "ladder": "ladder", "music": "music",
        "silver": "silver", "garden": "garden", "thunder": "thunder",
    },
    "What do you call a baby {}?": {
        "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "bear": "cub", "duck": "duckling",
    },
}  # fmt: skip
"""By template: the word for the gap, and the words (as a regular expression) of which a right answer has one."""


def simple_questions() -> Iterator[tuple[str, str]]:
    """Each question and its answer's pattern."""
    for template, answers in QUESTIONS.items():
        for gap, words in answers.items():
            yield template.format(gap), rf"(?i)\b({words})\b"
