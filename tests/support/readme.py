"""The parts of the pages that are made from the code: `uv run poe docs` writes them, a test compares them."""

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from service.domain.outcome import FailureClass, Recourse
from service.registry.schema import tenant_file_reference
from service.settings import PREFIX, Settings

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"

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


# By page: what its generated section is called, and what makes it.
SECTIONS = {
    REPOSITORY / "service" / "settings.md": ("settings", settings),
    REPOSITORY / "service" / "domain" / "failure-classes.md": ("failures", failures),
    REPOSITORY / "service" / "registry" / "README.md": ("tenant-file", tenant_file_reference),
}


def rendered(page: Path) -> str:
    """The page with its generated section as the code is now."""
    name, render = SECTIONS[page]
    text = page.read_text()
    match = re.search(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", text, re.DOTALL)
    if match is None:
        raise ValueError(f"{page} has no section {name}")
    return f"{text[: match.end(1)]}{render()}{text[match.start(2) :]}"


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
    for page in SECTIONS:
        page.write_text(rendered(page))
