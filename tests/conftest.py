"""Settings for every test."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine is no defect: no property test is timed.
settings.register_profile("pinhole", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pinhole")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the folder that the project lies in."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the environment's own settings out; PINHOLE_SHARED only says where the reference vectors lie."""
    for name in [name for name in os.environ if name.startswith("PINHOLE_") and name != "PINHOLE_SHARED"]:
        monkeypatch.delenv(name)
