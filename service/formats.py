"""The file of custom event formats: what a user may write, checked as a whole, and made into formats for the event parser.

Read once, at the start: what a topic's events look like changes with a deploy, unlike who owns what. `formats.example.yaml`, next to
this file, shows every field.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from service.domain.events import Condition, Constant, EventFormat, EventFormatError, Pointer
from service.registry.located_yaml import LocatedYaml, Location, YamlError


class EventFormatsError(Exception):
    """The file cannot be used. The text has a line for each problem: file, line, field, reason."""

    def __init__(self, path: Path, problems: list[tuple[int, str]]) -> None:
        super().__init__("\n".join(f"{path}:{line}: {text}" for line, text in sorted(problems)))
        self.path = path


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


def _pointer(text: str) -> str:
    Pointer(text)
    return text


def _source(value: Any) -> str | Constant:
    match value:
        case str():
            return _pointer(value)
        case {"constant": str(constant)} if len(value) == 1:
            return Constant(constant)
        case _:
            raise ValueError("is neither a JSON pointer nor {constant: TEXT}; digits are in quotes")


def _condition(value: Any) -> Condition:
    match value:
        case str() | int():
            return value
        case _:
            raise ValueError("is to be text, a whole number, true or false")


_Pointer = Annotated[str, AfterValidator(_pointer)]
_Source = Annotated[str | Constant, PlainValidator(_source)]


class FormatEntry(_Entry):
    """One format. Every place is a JSON pointer (RFC 6901), such as `/subject/name`."""

    name: str = Field(description="What explanations call it.")
    when: dict[_Pointer, Annotated[Condition, PlainValidator(_condition)]] = Field(
        {}, description="Values that fields must have. Without them, every object with the log group's field is taken."
    )
    log_group: _Pointer | None = Field(None, description="Where the log group's name is.")
    log_group_arn: _Pointer | None = Field(None, description="Where its ARN is, instead of its name.")
    account: _Source | None = Field(
        None, description="Where the account id is, or `{constant: ...}`. An ARN has it already, and has to agree."
    )
    region: _Source | None = Field(None, description="Where the Region is, or `{constant: ...}`. The same holds.")
    tags: _Pointer | None = Field(None, description="Where the tags are, a map of texts.")
    key: _Pointer | None = Field(
        None, description="Where the key is that the sender says the group has. It has to be text, and proves nothing."
    )

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        self.event_format()
        return self

    def event_format(self) -> EventFormat:
        """The format. Raises EventFormatError, which names the field."""
        return EventFormat(
            name=self.name,
            when=self.when,
            log_group=self.log_group,
            log_group_arn=self.log_group_arn,
            account=self.account,
            region=self.region,
            tags=self.tags,
            key=self.key,
        )


class FormatsFile(_Entry):
    """The whole file."""

    version: Literal[1] = Field(description="Version of this schema: `1`.")
    formats: list[FormatEntry] = Field(min_length=1, description="Every format, tried in this order.")


def load_event_formats(path: Path) -> list[EventFormat]:
    """Read and check the file (YAML, or JSON as a part of it). Raises EventFormatsError with every problem in it."""
    try:
        document = LocatedYaml(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise EventFormatsError(path, [(1, f"cannot be read: {e.strerror}")]) from e
    except UnicodeDecodeError as e:
        raise EventFormatsError(path, [(1, "is not UTF-8")]) from e
    except YamlError as e:
        raise EventFormatsError(path, [(e.line, e.reason)]) from e
    problems = [(line, f"{_path(at)}: is here a second time") for at, line in document.duplicate_keys]
    try:
        formats = FormatsFile.model_validate(document.data).formats
    except ValidationError as e:
        errors = e.errors(include_url=False)
        problems += [_problem(document, error) for error in errors]
        raise EventFormatsError(path, problems) from e
    names = [entry.name for entry in formats]
    problems += (
        (document.line_of(("formats", index, "name")), f"formats[{index}].name: {name} is the name of another already")
        for index, name in enumerate(names)
        if name in names[:index]
    )
    if problems:
        raise EventFormatsError(path, problems)
    return [entry.event_format() for entry in formats]


def _problem(document: LocatedYaml, error: ErrorDetails) -> tuple[int, str]:
    location, reason = error["loc"], error["msg"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, EventFormatError):
        location, reason = (*location, cause.field), cause.reason
    elif cause is not None:
        reason = str(cause)
    elif error["type"] == "missing":
        reason = "is missing"
    elif error["type"] == "extra_forbidden":
        reason = "is no field here"
    return document.line_of(location), f"{_path(location)}: {reason}"


def _path(location: Location) -> str:
    """`formats[0].log_group`; pydantic's mark for a mapping's key is left out."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "[key]")
    return "".join(parts).removeprefix(".")
