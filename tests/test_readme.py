"""The README is true: its collector runs, its commands exist, its prices are read."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from collectors.cli.app import make_app
from collectors.pricing import PriceAttributes, PriceBook

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    """The code block of a language that holds a text."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    [text] = [text for text in found if holding in text]
    return str(text)


def run(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a new user with an empty home."""
    return subprocess.run(
        [sys.executable, "-m", "collectors", *arguments],
        cwd=home,
        env={
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}{os.pathsep}{home}",
            "TOKENDASH_CONFIG_DIR": str(home / "config"),
            "TZ": "UTC",
            **settings,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_collector_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "home_lab.py").write_text(block("python", "HomeLabCollector"))
    settings = {
        "COLLECTORS_EXTRA": "home_lab:HomeLabCollector",
        "DB_PATH": str(tmp_path / "ledger.db"),
    }

    done = run(tmp_path, "--once", **settings)
    again = run(tmp_path, "--once", **settings)

    assert (done.returncode, again.returncode) == (0, 0), done.stderr
    db = sqlite3.connect(tmp_path / "ledger.db")
    counted = db.execute(
        "SELECT source, provider, model, sum(requests), sum(input_tokens), sum(output_tokens),"
        " sum(cost_nano) FROM bucket JOIN series ON series.id=series GROUP BY 1, 2, 3"
    ).fetchall()
    db.close()
    # gpt-5: $1.25 per million in, $10 out: 1,000 in and 200 out cost $0.00125 + $0.002.
    assert counted == [("home-lab", "openai", "gpt-5", 1, 1_000, 200, 3_250_000)]


def test_with_nothing_at_all_once_explains_itself_and_is_fine(tmp_path: Path) -> None:
    done = run(tmp_path, "--once")

    assert done.returncode == 0
    assert str(tmp_path / ".claude" / "projects") in done.stdout
    assert "INFLUXDB_URL" in done.stdout
    assert done.stderr == ""


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"`tokendash ([a-z]+)", README))
    known = {
        command.name or str(command.callback and command.callback.__name__)
        for command in make_app().registered_commands
    }
    known |= {group.name for group in make_app().registered_groups if group.name}

    assert named - known == set()


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_prices_of_the_readme_are_read_and_hold(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(block("yaml", "my-finetune"))
    book = PriceBook(path)

    tariff = book.tariff(PriceAttributes("openai", "my-finetune"), 1_790_000_000_000)

    assert book.problems == []
    assert tariff is not None
    cost = tariff.cost(1_000_000, 1_000_000, 0, 0, 1_000_000)
    assert cost is not None
    assert cost.cost_nano_usd == 11_375_000_000  # 1.25 + 0.125 + 10 dollars


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"`([A-Z]+_[A-Z_]+)`", README))))
def test_every_setting_the_readme_names_is_known(variable: str) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")

    assert variable in example or f"{variable.removesuffix('_FILE')}" in example
