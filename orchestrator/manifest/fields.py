"""The types of the schema's fields: each a reader of `scalars` with its JSON Schema beside it.

In: plain YAML data. Out: read values; an `Unreadable` becomes pydantic's error with our code as its type. Every
scalar takes a `${VAR}` too, so the JSON Schema of each allows a string with `${`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from orchestrator.manifest import addresses, scalars
from orchestrator.manifest.codes import Code
from orchestrator.manifest.scalars import Unreadable

VARIABLE = {"type": "string", "pattern": r"\$\{"}


def refuse(code: Code, message: str, hint: str | None = None) -> PydanticCustomError:
    """Our error in pydantic's form."""
    return PydanticCustomError(str(code), "{message}", {"message": message, "hint": hint})


def reading(reader: Callable[..., Any], *arguments: Any, **bounds: Any) -> PlainValidator:
    """A validator from a reader of `scalars`."""
    read = partial(reader, **bounds)

    def validate(value: Any) -> Any:
        try:
            return read(value, *arguments)
        except Unreadable as error:
            raise refuse(error.code, error.message, error.hint) from error

    return PlainValidator(validate)


def _json(kind: str | list[str], pattern: str | None = None, **more: Any) -> WithJsonSchema:
    """A scalar's JSON Schema; `pattern` holds for strings, which may have a variable inside."""
    if isinstance(kind, list) or kind == "string":
        return WithJsonSchema({"type": kind, **({"pattern": rf"{pattern}|\$\{{"} if pattern else {}), **more})
    return WithJsonSchema({"anyOf": [{"type": kind, **more}, VARIABLE]})


_SIZE = r"^[0-9]+(\.[0-9]+)? ?([kKmMgGtT][iI]?)?[bB]?$"
_DURATION = r"^([0-9]+h)?([0-9]+m)?([0-9]+(\.[0-9]+)?s)?([0-9]+ms)?$"
_PORTS = r"^(.*:)?[0-9]+(-[0-9]+)?:[0-9]+(-[0-9]+)?(/(tcp|udp))?$"
_WORD = {"type": ["string", "number"]}


def _at_least(value: Any, low: int, shown: str) -> int:
    found = scalars.size(value)
    if found < low:
        raise Unreadable(f"expects at least {shown}, found {scalars.describe(value)}")
    return found


def _words(value: Any) -> Any:
    """A command: a list stays, a string becomes a line for the shell."""
    if isinstance(value, str) and value.strip():
        return ["/bin/sh", "-c", value]
    if isinstance(value, list) and value:
        return value
    raise refuse(Code.TYPE, f"expects a list of words or a line for /bin/sh, found {_empty(value)}")


def _empty(value: Any) -> str:
    return "an empty list" if value == [] and isinstance(value, list) else scalars.describe(value)


def _one_or_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _io(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


def dependencies(value: Any) -> Any:
    """`[db, cache]` as `{db: started, cache: started}`."""
    if not isinstance(value, list):
        return value
    for each in value:
        if not isinstance(each, str):
            raise refuse(
                Code.TYPE,
                f"expects a list of names, or NAME: CONDITION, found {scalars.describe(each)} in the list",
            )
    return dict.fromkeys(value, "started")


@dataclass(frozen=True, slots=True)
class AlsoAs:
    """Another form that the JSON Schema of a field allows; None: one item where the list stands."""

    schema: Mapping[str, Any] | None

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        usual = handler(core)
        return {"anyOf": [usual["items"] if self.schema is None else dict(self.schema), usual]}


ONE_OR_LIST = BeforeValidator(_one_or_list)
IO_FORM = BeforeValidator(_io)

Name = Annotated[
    str,
    reading(scalars.name),
    WithJsonSchema({"type": "string", "pattern": scalars.NAME_PATTERN, "maxLength": scalars.NAME_LENGTH}),
]
External = Annotated[str, reading(scalars.external), _json("string", scalars.EXTERNAL_PATTERN)]
StackName = Annotated[str, reading(scalars.name), _json("string", scalars.NAME_PATTERN)]
Text = Annotated[str, reading(scalars.filled), _json("string", minLength=1)]
AnyText = Annotated[str, reading(scalars.text), _json("string")]
Flag = Annotated[bool, reading(scalars.flag), _json("boolean")]
Size = Annotated[int, reading(scalars.size), _json(["integer", "string"], _SIZE, minimum=0)]
Memory = Annotated[
    int, reading(_at_least, 6 * 2**20, "6MiB"), _json(["integer", "string"], _SIZE, minimum=6 * 2**20)
]
LogSize = Annotated[int, reading(_at_least, 4096, "4KiB"), _json(["integer", "string"], _SIZE, minimum=4096)]
TmpfsSize = Annotated[
    int, reading(_at_least, 4096, "4KiB"), _json(["integer", "string"], _SIZE, minimum=4096)
]
Rate = Annotated[
    int, reading(scalars.rate), _json("string", r"^[0-9]+(\.[0-9]+)? ?([kKmMgGtT][iI]?)?[bB]?/s$")
]
Duration = Annotated[float, reading(scalars.duration), _json("string", _DURATION, minLength=1)]
SomeDuration = Annotated[float, reading(scalars.some_duration), _json("string", _DURATION, minLength=1)]
Cpus = Annotated[
    float, reading(scalars.number, low=0.01, high=8192), _json("number", minimum=0.01, maximum=8192)
]
Weight = Annotated[
    int, reading(scalars.whole, low=1, high=10_000), _json("integer", minimum=1, maximum=10_000)
]
Pids = Annotated[
    int, reading(scalars.whole, low=1, high=4_194_304), _json("integer", minimum=1, maximum=4_194_304)
]
Iops = Annotated[int, reading(scalars.whole, low=1, high=2**63 - 1), _json("integer", minimum=1)]
Replicas = Annotated[int, reading(scalars.whole, low=0, high=1000), _json("integer", minimum=0, maximum=1000)]
Retries = Annotated[int, reading(scalars.whole, low=0, high=1000), _json("integer", minimum=0, maximum=1000)]
ProbeRetries = Annotated[
    int, reading(scalars.whole, low=1, high=1000), _json("integer", minimum=1, maximum=1000)
]
LogFiles = Annotated[int, reading(scalars.whole, low=1, high=100), _json("integer", minimum=1, maximum=100)]
Cpuset = Annotated[
    str,
    reading(scalars.cpuset),
    _json(["integer", "string"], r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$", minimum=0),
]
HostPath = Annotated[str, reading(scalars.path), _json("string", minLength=1)]
InnerPath = Annotated[str, reading(scalars.inner_path), _json("string", "^/")]
Image = Annotated[str, reading(scalars.image), _json("string", r"^[^\s]+$")]
Pull = Annotated[
    str, reading(scalars.choice, "always", "missing", "never"), _json("string", "^(always|missing|never)$")
]
Per = Annotated[str, reading(scalars.choice, "stack", "instance"), _json("string", "^(stack|instance)$")]
Suite = Annotated[str, reading(scalars.suite), _json("string", scalars.SUITE_PATTERN)]
Package = Annotated[str, reading(scalars.package), _json("string", scalars.PACKAGE_PATTERN)]
Variant = Annotated[
    str,
    reading(scalars.choice, "essential", "apt", "minbase", "standard"),
    _json("string", "^(essential|apt|minbase|standard)$"),
]
Sha256 = Annotated[str, reading(scalars.sha256), _json("string", r"^(sha256:)?[0-9a-fA-F]{64}$")]
Subnet = Annotated[str, reading(addresses.subnet), _json("string", r"^[0-9.]+/[0-9]+$")]
Address = Annotated[str, reading(addresses.address), _json("string", r"^[0-9]+(\.[0-9]+){3}$")]
Hostname = Annotated[
    str,
    reading(scalars.hostname),
    _json("string", r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", maxLength=63),
]
User = Annotated[
    str,
    reading(scalars.user),
    _json(["integer", "string"], r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$", minimum=0, maximum=65535),
]
Signal = Annotated[str, reading(scalars.stop_signal), _json(["integer", "string"], minimum=1, maximum=64)]
Mode = Annotated[int, reading(scalars.mode), _json("string", "^0?[0-7]{3}$")]
Port = Annotated[
    int, reading(addresses.port), _json(["integer", "string"], "^[0-9]+$", minimum=1, maximum=65535)
]
PortRange = Annotated[
    range,
    reading(addresses.port_range),
    _json(["integer", "string"], r"^[0-9]+(-[0-9]+)?$", minimum=1, maximum=65535),
]
Protocol = Annotated[str, reading(addresses.protocol), _json("string", "^(tcp|udp)$")]
Status = Annotated[
    tuple[int, int],
    reading(scalars.status),
    _json(["integer", "string"], r"^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$", minimum=100, maximum=599),
]
EnvName = Annotated[
    str,
    reading(scalars.env_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"}),
]
EnvValue = Annotated[str, reading(scalars.env_value), WithJsonSchema(_WORD)]
UlimitName = Annotated[
    str,
    reading(scalars.ulimit_name),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(sorted(scalars.ULIMITS))})$"}),
]
UlimitBound = Annotated[
    int,
    reading(scalars.ulimit),
    _json(["integer", "string"], r"^unlimited$|^[0-9]+(\.[0-9]+)? ?([kKmMgGtT][iI]?)?[bB]?$", minimum=-1),
]
Restart = Annotated[
    str,
    reading(scalars.restart),
    _json("string", "^(always|on-failure|never)$"),
]
OnUnhealthy = Annotated[str, reading(scalars.choice, "restart", "none"), _json("string", "^(restart|none)$")]
OnRestart = Annotated[
    str, reading(scalars.choice, "restart", "ignore"), _json("string", "^(restart|ignore)$")
]
ProbeFrom = Annotated[str, reading(scalars.choice, "inside", "host"), _json("string", "^(inside|host)$")]
UntilWord = Annotated[
    str,
    reading(scalars.choice, "started", "healthy", "completed"),
    _json("string", "^(started|healthy|completed)$"),
]
Command = Annotated[
    tuple[EnvValue, ...],
    BeforeValidator(_words),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": _WORD}]}
    ),
]
