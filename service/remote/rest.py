"""The REST API from outside, as the command line asks it: one way to say what went wrong, whichever command it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

ANSWER_S: Final = 30.0  # beyond what a caller waits for: a person is there, and a broker's failover takes a few seconds


class RestError(Exception):
    """The service does not answer, or refuses; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where the service is, and the token that it knows the caller by."""

    url: str
    token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Raise RestError for whatever httpx raises in the block."""
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as e:
            raise RestError(f"{self.url} is no address: {e}") from e
        except httpx.HTTPError as e:
            raise RestError(f"{self.url} does not answer: {str(e) or type(e).__name__}") from e

    def document(self, response: httpx.Response) -> dict[str, Any]:
        """What it has answered. Raises RestError, with all that a problem document says."""
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RestError(
                f"{self.url} answers {response.status_code} with something that is not from this service"
            ) from None
        if response.is_error:
            raise RestError(_sentence(response, answer))
        return answer


def _sentence(response: httpx.Response, problem: dict[str, Any]) -> str:
    lines = [f"{response.status_code}: {problem.get('title', response.reason_phrase)}. {problem.get('detail', '')}"]
    for error in problem.get("errors") or ():
        where = f"{error['pointer']}: " if error.get("pointer") else ""
        lines.append(f"  {where}{error.get('detail')}")
    return "\n".join(line.rstrip() for line in lines)
