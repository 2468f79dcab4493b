"""YAML that remembers its lines, so that a problem can be told with the place where it is."""

from collections.abc import Iterator
from typing import Any, Final

import yaml

Location = tuple[str | int, ...]  # keys and indexes from the top, as pydantic names a place: ("tenants", 0, "id")

# The parser in C is several times as fast; the wheels of PyYAML have it, a build without libyaml has not.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """The text is no YAML document of plain data. `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


class LocatedYaml:
    """One document: its data, and where in the text each part of it stands. Raises YamlError."""

    def __init__(self, text: str) -> None:
        loader = _Loader(text)
        try:
            self._root: yaml.Node | None = loader.get_single_node()
            # Before the data are built, which is where a merge key (<<) brings in keys that may be there already.
            self.duplicate_keys: Final = list(_duplicate_keys(self._root, (), set()))
            self.data: Final[Any] = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            raise YamlError(mark.line + 1 if mark else 1, " ".join(filter(None, [e.context, e.problem]))) from e
        except yaml.reader.ReaderError as e:
            raise YamlError(
                text.count("\n", 0, e.position) + 1, f"holds a character that YAML forbids: {e.reason}"
            ) from e
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
            # PyYAML's constructors check nothing: 2026-13-32 is a date to them, `!!bool maybe` a KeyError, `!!int ""` an IndexError
            raise YamlError(1, f"holds a value that YAML cannot read: {type(e).__name__}: {e}") from e
        finally:
            loader.dispose()

    def line_of(self, location: Location) -> int:
        """The line, from 1, of the key or list entry at a location, or of the nearest part above it that exists."""
        node, line = self._root, 1
        for part in location:
            child = _child(node, part)
            if child is None:
                break
            place, node = child
            line = place.start_mark.line + 1
        return line

    def scalar_at(self, location: Location) -> str | None:
        """A scalar as it is written, before YAML made a number or a date of it; None where there is none."""
        node = self._root
        for part in location:
            child = _child(node, part)
            if child is None:
                return None
            _, node = child
        return node.value if isinstance(node, yaml.ScalarNode) else None


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node that marks the place of a part, and the node of its value."""
    if isinstance(node, yaml.MappingNode):
        # The last of equal keys counts, as it does in the data.
        return next(((key, value) for key, value in reversed(node.value) if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part], node.value[part]
    return None


def _duplicate_keys(node: yaml.Node | None, at: Location, seen: set[int]) -> Iterator[tuple[Location, int]]:
    """Each key that a mapping holds a second time, and its line. A node with an alias is looked at once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    yield (*at, key.value), key.start_mark.line + 1
                keys.add(key.value)
            yield from _duplicate_keys(value, (*at, str(key.value)), seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _duplicate_keys(value, (*at, index), seen)
