"""The columns of the curves' files, by the names of the metrics in the trackers.

Both files are dense: DVC draws an empty cell as zero. They hold nothing that differs
from one run to the next on the same machine, as seconds do.
"""

TRAIN_COLUMNS = {
    "train_loss": "loss",
    "learning_rate": "learning_rate",
    "gradient_norm": "gradient_norm",
}
VALIDATION_COLUMNS = {"validation_loss": "loss"}
