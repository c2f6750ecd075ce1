"""What the models of the document share: their base, and how a field says no."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

GATE = "gate"
INVALID = "invalid"
WHOLE = "whole"


class Model(BaseModel):
    """camelCase in the document, snake_case in Python, nothing that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


def invalid(reason: str, remedy: str, kind: str = INVALID) -> PydanticCustomError:
    # The reason travels in the context: as the template itself, braces in what a user typed would be read as fields.
    return PydanticCustomError(kind, "{reason}", {"reason": reason, "remedy": remedy})  # type: ignore[arg-type,unused-ignore]


def choice(options: type[StrEnum]) -> BeforeValidator:
    names = [option.value for option in options]

    def check(value: object) -> object:
        if value not in names:
            raise invalid(f"is {value!r}", f"Use {' or '.join(names)}.")
        return options(value)

    return BeforeValidator(check)
