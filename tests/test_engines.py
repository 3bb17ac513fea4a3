"""Missing test programs are installed, skipped by name, or a failure: by rule, not by chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines import ENGINES, Engine, install, missing_engines, need

APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >>"{log}"
test -x "{policy}" && "{policy}" || echo "services: $?" >>"{log}"
case "$*" in *no-such-package*) exit 100 ;; esac
"""


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any engine: PATH is an empty folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_missing_engine_is_a_skip_that_names_the_line(
    nothing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="influxd is missing: apt-get install influxdb"):
        need("influxd")


def test_missing_engine_is_a_failure_where_a_ci_could_have_installed_it(
    nothing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("os.geteuid", lambda: 0)

    with pytest.raises(pytest.fail.Exception, match="strace is missing"):
        need("strace")


def test_only_what_is_missing_is_listed(nothing: Path) -> None:
    (nothing / "strace").touch(0o755)

    assert missing_engines() == [engine for engine in ENGINES if engine.command != "strace"]


def test_installation_updates_first_asks_nothing_and_starts_no_service(
    nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, policy = tmp_path / "log", tmp_path / "policy-rc.d"
    fake_apt(nothing, log, policy, monkeypatch)

    done = install([Engine("influxd", "influxdb"), Engine("strace", "strace")], policy)

    assert done
    options = "-o DPkg::Lock::Timeout=300 -q -y"
    assert log.read_text().splitlines() == [
        f"noninteractive {options} update",
        "services: 101",
        f"noninteractive {options} install --no-install-recommends influxdb strace",
        "services: 101",
    ]
    assert not policy.exists()


def test_policy_of_the_machine_stays(
    nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    fake_apt(nothing, tmp_path / "log", policy, monkeypatch)

    install([Engine("strace", "strace")], policy)

    assert policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_failed_installation_says_so(
    nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_apt(nothing, tmp_path / "log", tmp_path / "policy-rc.d", monkeypatch)

    assert not install([Engine("x", "no-such-package")], tmp_path / "policy-rc.d")


def test_machine_without_apt_is_told_what_to_install(
    nothing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not install([Engine("influxd", "influxdb")], tmp_path / "policy-rc.d")
    assert "install by hand: influxdb" in capsys.readouterr().err


def fake_apt(folder: Path, log: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An apt-get that writes down what it was asked and whether services may start."""
    (folder / "apt-get").write_text(APT.format(log=log, policy=policy))
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
