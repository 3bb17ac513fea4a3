"""Fixtures of all tests."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.support.engines"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`./tokendash test --soak` adds the tests that run for minutes."""
    parser.addoption("--soak", action="store_true", help="also run the tests marked soak")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked soak out by name unless they are asked for."""
    if not config.getoption("--soak"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: ./tokendash test --soak"))
