"""What is wrong with a configuration, in one line instead of the schema's own words."""

import difflib
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match


def check_config(
    config: Mapping[str, Any],
    schema: Mapping[str, Any],
    extended: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Refuse a configuration that is not as the schema has it.

    `extended` says by section and name which recipe another one is laid over: what is
    wrong with that one is told of it alone.
    """
    errors = list(Draft202012Validator(schema).iter_errors(config))
    wrong = {tuple(error.absolute_path)[:2] for error in errors}

    def is_inherited(error: ValidationError) -> bool:
        own = tuple(error.absolute_path)[:2]
        return bool(own) and (own[0], (extended or {}).get(own)) in wrong

    error = best_match(error for error in errors if not is_inherited(error))
    if error is not None:
        raise ValueError(": ".join(["config", *_place(error), _complaint(error)]))


def _place(error: ValidationError) -> list[str]:
    return [str(step) for step in error.absolute_path]


def _complaint(error: ValidationError) -> str:
    """Say what was expected and found at the place of an error, and what to do."""
    found, wanted = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        strange = next(key for key in found if key not in known)
        close = difflib.get_close_matches(str(strange), known, 1)
        remedy = f"write {close[0]!r}" if close else "take it out"
        return f"expected one of {sorted(known)}, found {strange!r}; remedy: {remedy}"
    if error.validator == "required":
        lacking = next(key for key in wanted if key not in found)
        return (
            f"expected a key {lacking!r}, found none; remedy: "
            "take it over from config/config.yaml"
        )
    if error.validator == "enum":
        close = difflib.get_close_matches(str(found), map(str, wanted), 1)
        remedy = f"write {close[0]!r}" if close else "choose one of these"
        return f"expected one of {wanted}, found {found!r}; remedy: {remedy}"
    if error.validator == "type":
        return f"expected {wanted}, found {found!r}; remedy: correct it"
    return f"{error.message}, found {found!r}; remedy: see config/config.yaml"
