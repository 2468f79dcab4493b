"""Whatever an editor leaves in the tenant file, it is loaded or refused with reasons: an unexpected exception would end the watch."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.registry import schema
from service.registry.file import TenantFileError, load_tenant_file

EXAMPLE = Path(schema.__file__).with_name("tenants.example.yaml").read_text()
SNIPPETS = st.sampled_from(
    ["", " ", "\n", ":", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "? ", "!x ", "!!int ", "!!binary ", "|", "'", '"', "#",
     "null", "yes", "5", "0x_", "2026-02-31", "1e400", ".nan", "---\n", "%YAML 9.9\n", "\t", "\x00", "\ud800", "é"]
)  # fmt: skip


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """The example with a few snippets over, in place of, or between its characters."""
    text = EXAMPLE
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(SNIPPETS) + text[at + draw(st.integers(0, 12)) :]
    return text.encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry") / "tenants.yaml"


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(content=edited() | st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="replace")))
@example(content=b"[" * 20_000)
@example(content=b"- " * 5_000)
@example(content=b"a: &a {b: *a, <<: *a}")
@example(content=b"a0: &a0 []\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60)))
@example(content=b"version: !!int x")
@example(content=b"version: " + b"9" * 5_000)
@example(content=b"{1: {[]: 2}, ~: 3}")
@example(content=b"\xef\xbb\xbfversion: 1")
def test_a_file_is_loaded_or_refused_with_reasons(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        rules = load_tenant_file(path)
    except TenantFileError as e:
        problems = e.problems
    else:
        assert len(rules) > 0
        return
    line_count = len(content.decode(errors="replace").splitlines()) + 1
    assert problems
    assert all(1 <= problem.line <= line_count and problem.reason for problem in problems)
