"""Requests that schemathesis makes of /openapi.json: what is answered is what the document says may be."""

import warnings
from collections import Counter
from typing import Any, Final

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable

from tests.support.figures import RecordFigure
from tests.support.servers import Server
from tests.support.soak import Scale

with warnings.catch_warnings():  # of the libraries it stands on, about each other
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

NUM_REQUESTS: Final = 500
"""To each route, and as many that break what the document says of it."""
BUSY: Final = 503
CHECKS: Final = {
    GenerationMode.POSITIVE: [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ],
    GenerationMode.NEGATIVE: [not_a_server_error],
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(CHECKS), ids=lambda mode: mode.value)
def test_every_route_answers_as_the_document_says(
    server: Server, scale: Scale, record_figure: RecordFigure, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]  # or it raises
    status_codes: Counter[int] = Counter()
    with requests.Session() as session:
        for operation in operations:
            status_codes += ask_all(operation, mode, scale.count(NUM_REQUESTS), session)
    told = ", ".join(f"{number} got {code}" for code, number in sorted(status_codes.items()))
    record_figure(f"schemathesis, {mode.value}: {status_codes.total()} requests to {len(operations)} routes, {told}")
    assert status_codes.total() >= len(operations)


def ask_all(operation: Any, mode: GenerationMode, count: int, session: requests.Session) -> "Counter[int]":
    """Requests to one route, up to `count` different ones; the answers by status code."""
    status_codes: Counter[int] = Counter()

    @seeded(0)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if status_codes.total() % 2 and "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = "model"  # else there would never be a model of that name
        response = case.call(session=session)
        status_codes[response.status_code] += 1
        if response.status_code != BUSY:
            case.validate_response(response, checks=CHECKS[mode])

    try:
        ask()
    except Unsatisfiable:  # a route without parameters cannot be asked wrongly
        assert mode.is_negative
    return status_codes
