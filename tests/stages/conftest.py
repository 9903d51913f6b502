"""The check that every report that a stage writes in these tests fits the published JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reporting.schema import valid_reports


@pytest.fixture(autouse=True)
def reports_are_valid(request: pytest.FixtureRequest) -> Iterator[None]:
    """Validate the reports in the folder of the test, after it has run."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        valid_reports(folder)
