"""The columns of the curves' files, by the names of the metrics in the trackers.

Both files are dense: DVC draws an empty cell as zero. A metric that a training does not
have (without Muon there is no `muon_learning_rate`) is `nan` in each row: DVC draws no
line for it, and no plot at all where a column is missing. The files hold nothing that
differs from one run to the next on the same machine, as seconds do.
"""

TRAIN_COLUMNS = {
    "train_loss": "loss",
    "muon_learning_rate": "muon_learning_rate",
    "adamw_learning_rate": "adamw_learning_rate",
    "gradient_norm": "gradient_norm",
}
VALIDATION_COLUMNS = {"validation_loss": "loss"}
