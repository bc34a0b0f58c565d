"""The section `tracking` of params.yaml, with what the environment asks for instead."""

from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow.destination import with_mlflow_environment
from toygpt.tracking.wandb.settings import with_wandb_environment


def with_environment(tracking: TrackingParams) -> TrackingParams:
    """Return the parameters with what the trackers' own variables say.

    Raises:
        InputError: A variable says what the tracker would not accept.
    """
    return with_wandb_environment(with_mlflow_environment(tracking))
