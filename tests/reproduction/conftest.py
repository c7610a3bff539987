"""The claims as they are declared, read once."""

import pytest

from offaxis.reproduction.claims import Declaration, load_claims


@pytest.fixture(scope="session")
def declared() -> Declaration:
    return load_claims()
