"""What is said about a wrong value, by the kind of its fault."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connectors.messages import Text, sentences


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, Field(min_length=2, max_length=4)]
    size: Annotated[int, Field(gt=0)] = 1
    tags: Annotated[list[int], Field(max_length=1)] = []


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ('{"name": "a"}', "name: must have at least 2 characters, and has 1"),
        ('{"name": "abcde"}', "name: must have at most 4 characters, and has 5"),
        ('{"name": "a\\u0000b"}', "name: contains a NUL character, which PostgreSQL cannot store; remove it"),
        ('{"name": "abc", "seize": 3}', "seize: unknown; remove it, or correct its name"),
        ('{"name": "abc", "size": -1}', "size: Input should be greater than 0"),
        ('{"name": "abc", "tags": [1, 2]}', "tags: List should have at most 1 item after validation, not 2"),
        ("[]", "part: must be an object with named fields"),
        ("{", "part: not JSON: EOF while parsing an object at line 1 column 1"),
    ],
)
def test_the_sentence_names_the_field_and_the_fault(sent: str, said: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        Part.model_validate_json(sent)
    assert sentences(wrong.value.errors(), whole="part") == [said]
