"""Checks requests against botocore's service models as AWS does: required members, types, lengths, ranges and patterns.

Clients leave most of this to AWS: botocore checks neither a string's longest length nor its pattern, and nothing at all with
`parameter_validation=False`. Enumerations are not enforced, since the models lag behind AWS.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from moto.core.utils import get_service_model

from service.sandbox.aws.errors import AwsError

_TYPES: Final[dict[str, type]] = {
    "string": str,
    "integer": int,
    "long": int,
    "boolean": bool,
    "list": list,
    "map": dict,
    "structure": dict,
}


def is_operation(service: str, operation: str) -> bool:
    """Whether a service has an operation of that name, so that a mistyped one does not pass for one that never happens."""
    return operation in get_service_model(service).operation_names


def check_request(service: str, operation: str, params: object, *, error_code: str) -> None:
    """Raise AwsError, in AWS's words, unless the parameters satisfy the operation's input shape."""
    shape = get_service_model(service).operation_model(operation).input_shape
    violations = list(_violations(shape, params, ""))
    if violations:
        count = f"{len(violations)} validation error{'s' if len(violations) > 1 else ''} detected"
        raise AwsError(error_code, f"{count}: {'; '.join(violations)}")


def _violations(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if not _has_type(shape.type_name, value):
        yield _violation(value, path, f"Member must be of type {shape.type_name}")
        return
    yield from _out_of_bounds(shape, value, path)
    match shape:
        case StructureShape():
            yield from _in_structure(shape, value, path)
        case ListShape():
            for index, member in enumerate(value, start=1):
                yield from _violations(shape.member, member, f"{path}.{index}.member")
        case MapShape():
            for name, member in value.items():
                yield from _violations(shape.key, name, f"{path}.key")
                yield from _violations(shape.value, member, f"{path}.{name}.value")
        case StringShape() if (pattern := shape.metadata.get("pattern")) and not _matches(pattern, value):
            yield _violation(value, path, f"Member must satisfy regular expression pattern: {pattern}")


def _has_type(type_name: str, value: Any) -> bool:
    expected = _TYPES.get(type_name, object)
    return isinstance(value, expected) and not (expected is int and isinstance(value, bool))


def _in_structure(shape: StructureShape, value: dict[str, Any], path: str) -> Iterator[str]:
    given = {name: member for name, member in value.items() if member is not None}
    prefix = f"{path}." if path else ""
    for name in shape.required_members:
        if name not in given:
            yield _violation(None, prefix + name, "Member must not be null")
    for name, member in given.items():
        if name in shape.members:
            yield from _violations(shape.members[name], member, prefix + name)
        else:
            yield _violation(member, prefix + name, "Member is not known")


def _out_of_bounds(shape: Shape, value: Any, path: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is None and most is None:
        return
    measured, quality = (value, "value") if isinstance(value, int | float) else (len(value), "length")
    if least is not None and measured < least:
        yield _violation(value, path, f"Member must have {quality} greater than or equal to {least}")
    if most is not None and measured > most:
        yield _violation(value, path, f"Member must have {quality} less than or equal to {most}")


def _matches(pattern: str, value: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is None or compiled.fullmatch(value) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    r"""The pattern as Python reads it; None for what only Java understands (\p{L} and the like, in tags), which is let pass."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _violation(value: object, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"
