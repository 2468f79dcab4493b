"""The parts of the README that are made from the code: `uv run poe docs` writes them, a test compares them."""

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from service.domain.outcome import FailureClass, Recourse
from service.registry.schema import tenant_file_reference
from service.settings import PREFIX, Settings

README = Path(__file__).parents[2] / "README.md"

_RECOURSES = {
    Recourse.DEFER: "retry topics, then dead letter",
    Recourse.DEFER_ALWAYS: "retry topics, the last one for ever",
    Recourse.DEFER_ONCE_THEN_VANISHED: "one retry, then `vanished`",
    Recourse.HOLD: "the lane waits",
    Recourse.EXCLUDE: "`excluded`",
    Recourse.DEAD_LETTER: "dead letter",
}


def settings() -> str:
    rows = ["| variable | default | what it is for |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{PREFIX}{name.upper()}` | {_shown(field.default)} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def failures() -> str:
    rows = [
        "| class | whose fault | in place | then | not before | what an operator does |",
        "|---|---|---|---|---|---|",
    ]
    for f in FailureClass:
        in_place = "retried" if f.is_retried_in_place else ""
        delay = f"{f.shortest_delay_s / 60:g} min" if f.shortest_delay_s else ""
        rows.append(
            f"| `{f.label}` | {f.fault.value} | {in_place} | {_RECOURSES[f.recourse]} | {delay} | {_cell(f.hint)} |"
        )
    return "\n".join(rows)


SECTIONS = {"settings": settings, "failures": failures, "tenant-file": tenant_file_reference}


def rendered(text: str) -> str:
    """The README with every generated section as the code is now."""
    for name, render in SECTIONS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        match = pattern.search(text)
        if match is None:
            raise ValueError(f"the README has no section {name}")
        text = f"{text[: match.end(1)]}{render()}{text[match.start(2) :]}"
    return text


def _shown(default: object) -> str:
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, frozenset):
        return f"`{','.join(sorted(default))}`"
    if isinstance(default, list):
        return f"`{','.join(f'{d:g}' if isinstance(d, float) else str(d) for d in default)}`"
    if isinstance(default, bool | dict):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
