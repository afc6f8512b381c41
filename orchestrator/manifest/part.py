"""The base of all mappings of the language: unknown, empty and foreign keys, short forms, and their JSON Schema.

In: a mapping's data with its node (`source.Map`). Out: pydantic models; messages about keys go to the validation context (a
list), with their places, so that one wrong key hides nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationInfo, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from orchestrator.diagnostics import Diagnostic
from orchestrator.manifest import foreign
from orchestrator.manifest.codes import Code
from orchestrator.manifest.fields import refuse
from orchestrator.manifest.scalars import describe
from orchestrator.manifest.source import Broken, Map


class Part(BaseModel):
    """One mapping. `kind` names it in the tables of foreign keys; `forms` are the JSON Schemas of its short forms.

    `hidden` fields are set by a short form only; `elsewhere` are keys that belong to a neighbour, with a word of where.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"patternProperties": {"^x-": {}}},
        arbitrary_types_allowed=True,
    )
    kind: ClassVar[str] = ""
    forms: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    elsewhere: ClassVar[Mapping[str, str]] = {}
    hidden: ClassVar[frozenset[str]] = frozenset()
    known: ClassVar[frozenset[str]] = frozenset()  # as users write them

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.known = frozenset(each.alias or name for name, each in cls.model_fields.items()) - cls.hidden

    @classmethod
    def short(cls, data: Any) -> Any:
        """A short form as the mapping it stands for; anything else as it is."""
        return data

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, data: Any, info: ValidationInfo) -> Any:
        formed = cls.short(data)
        if formed is not data:
            return formed
        if not isinstance(data, dict):
            raise refuse(Code.TYPE, f"expects a mapping, found {describe(data)}")
        if data.keys() <= cls.known and None not in data.values():
            return data
        return cls._sorted_out(data, [] if info.context is None else info.context)

    @classmethod
    def _sorted_out(cls, data: dict[str, Any], report: list[Diagnostic]) -> dict[str, Any]:
        """The known keys with their values; says what is wrong with the others."""
        kept = {}
        for key, value in data.items():
            if key in cls.known and value is not None:
                kept[key] = value
            elif key in cls.known:
                kept[key] = Broken()
                words: foreign.Words = (
                    Code.EMPTY,
                    f'"{key}" is empty',
                    "give it a value ({} is an empty mapping), or remove the key",
                )
                report.append(cls._about(data, key, words))
            elif not key.startswith("x-"):
                written = ((each.alias or name) for name, each in cls.model_fields.items())
                names = tuple(each for each in written if each not in cls.hidden)
                report.append(cls._about(data, key, foreign.explain(cls.kind, key, names, cls.elsewhere)))
        return kept

    @staticmethod
    def _about(data: dict[str, Any], key: str, words: foreign.Words) -> Diagnostic:
        code, message, hint = words
        span = None
        if isinstance(data, Map) and data.node.entries and key in data.node.entries:
            span = data.node.entries[key][0].span
        return Diagnostic(code=code, message=message, span=span, hint=hint)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for each in cls.hidden:
            properties.pop(each, None)
        return {"anyOf": [*cls.forms, schema]} if cls.forms else schema


def exactly_one(part: Part, *keys: str) -> None:
    """Raises unless exactly one of the keys was written."""
    written = [key for key in keys if key in part.model_fields_set]
    if len(written) == 1:
        return
    options = f"{', '.join(keys[:-1])} or {keys[-1]}"
    found = f", found {' and '.join(written)}" if written else ""
    raise refuse(Code.COMBINATION, f"expects exactly one of {options}{found}")


def required_one(*keys: str) -> dict[str, Any]:
    """The same in a mapping's JSON Schema."""
    return {"patternProperties": {"^x-": {}}, "oneOf": [{"required": [key]} for key in keys]}
