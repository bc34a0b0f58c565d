"""Which MLflow gets the runs is said once, by an address that MLflow accepts."""

import pytest

from tests.tracking.trackers import tracked_by
from toygpt.pipeline.errors import InputError
from toygpt.tracking.settings import with_environment

LOCAL = tracked_by("mlflow")


@pytest.mark.parametrize(
    "address",
    ["ftp://example.com", "databricks", "sqlite:///mlflow.db", "http://", "http://a b"],
)
def test_an_address_of_another_kind_is_an_error(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    with pytest.raises(InputError) as error:
        with_environment(LOCAL)

    message = f"the variable MLFLOW_TRACKING_URI: got {address!r}"
    assert str(error.value).startswith(message)


def test_a_password_in_an_address_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://someone:planted@example.com")

    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as error:
        with_environment(LOCAL)

    assert "planted" not in str(error.value)
