"""Errors are problem documents, whoever raises them, and the documentation covers them all."""

import jsonschema
import pytest

from service.http.problems import ProblemError, ProblemType, pointer
from tests.support.http import side_port, token_file


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("GET", "/v1/nothing/here", 404),
        ("GET", "/readyz/", 404),
        ("POST", "/livez", 405),
        ("DELETE", "/v1/requests", 405),
    ],
)
async def test_what_the_framework_refuses_is_a_problem_too(tmp_path, method, path, status):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.request(method, path)

    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["type"], problem["status"], problem["instance"]) == ("about:blank", status, path)
    assert method in problem["detail"]
    assert ("Allow" in response.headers) is (status == 405)


async def test_a_bug_is_a_problem_that_gives_nothing_away_and_is_raised_for_the_log(tmp_path):
    async with side_port(token_file(tmp_path)) as port:

        @port.app.get("/bug")
        async def bug() -> None:
            raise RuntimeError("the password is swordfish")

        response = await port.client.get("/bug")

    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["title"] == "Internal Server Error"
    assert "swordfish" not in response.text


async def test_every_problem_is_explained_where_its_type_points(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        page = (await port.client.get("/docs")).text

    for problem in ProblemType:
        path, _, anchor = problem.uri.partition("#")
        assert path == "/docs"
        assert f'id="{anchor}"' in page


async def test_a_problem_is_what_the_documentation_says_it_is(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        schema = (await port.client.get("/openapi.json")).json()
        problems = [
            (await port.client.get("/nothing")).json(),
            (await port.client.post("/v1/requests", json={})).json(),
            (await port.client.get("/v1/requests/x", headers={"Authorization": ""})).json(),
        ]

    for problem in problems:
        jsonschema.validate(problem, {"$ref": "#/components/schemas/Problem", "components": schema["components"]})
        assert problem.keys() <= schema["components"]["schemas"]["Problem"]["properties"].keys()


def test_the_slugs_of_problems_are_all_different():
    assert len({p.slug for p in ProblemType}) == len(ProblemType)


@pytest.mark.parametrize("problem", ProblemType)
def test_a_refusal_for_want_of_something_says_when_to_come_back(problem):
    response = ProblemError(problem).response("/v1/requests")

    assert response.status_code == problem.status
    may_help = problem.status == 503 and problem is not ProblemType.NOT_ALIVE
    assert ("retry-after" in response.headers) is may_help
    assert ("www-authenticate" in response.headers) is (problem.status == 401)


@pytest.mark.parametrize(
    ("path", "text"),
    [((), "#"), (("log_groups", 0), "#/log_groups/0"), (("a/b", "~", "é"), "#/a~1b/~0/%C3%A9"), (("",), "#/")],
)
def test_a_pointer_is_escaped_as_json_pointer_and_as_fragment(path, text):
    assert pointer(*path) == text
