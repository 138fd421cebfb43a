"""The settings that all networks share, and their meaning.

`NetConfig` or a network's subclass of it declares each setting with its type, default, meaning and range;
`trainer.config.loading` gives them their values.
"""

from dataclasses import dataclass

from trainer.config.levels import setting

ENDS = ("first", "last")  # of a long list or text, which one is kept

# objective -> what the best epoch can be chosen by, and which way is better
STOPPING_METRICS: dict[str, dict[str, str]] = {
    "binary": dict.fromkeys(("loss", "mse", "mae", "log_loss", "normalised_entropy"), "min")
    | dict.fromkeys(("auc", "accuracy"), "max"),
    "regression": dict.fromkeys(("loss", "mse", "mae", "rmse"), "min") | {"r2": "max"},
    "multiclass": dict.fromkeys(("loss", "log_loss"), "min")
    | dict.fromkeys(("accuracy", "top_5_accuracy", "macro_f1"), "max"),
    "multilabel": {"loss": "min"} | dict.fromkeys(("auc", "micro_f1", "macro_f1"), "max"),
}


@dataclass(frozen=True)
class NetConfig:
    """The settings that all networks share. Columns have no default role: a dataset's variant names them."""

    network: str = setting("deep_v1", "name of a file in networks/")

    # Columns of the dataset by role.
    categorical_columns: tuple[str, ...] = setting((), "columns with one category per row")
    multi_categorical_columns: tuple[str, ...] = setting(
        (), "columns with a list of categories per row (REPEATED in BigQuery)"
    )
    text_columns: tuple[str, ...] = setting((), "columns with text")
    numeric_columns: tuple[str, ...] = setting((), "columns with numbers, scaled")
    log_numeric_columns: tuple[str, ...] = setting((), "columns with numbers >= 0, scaled after log(1 + x)")
    label_column: str = setting("", "column to predict; each variant, or its base, names one")
    positive_label: str | None = setting(
        None,
        "objective=binary: the value of the label that counts as 1, all others as 0; null: the label is a number from "
        "0 to 1, true or false",
    )
    weight_column: str | None = setting(
        None, "column with the weight of each row in loss and metrics; null: equal weights"
    )
    key_columns: tuple[str, ...] = setting(
        (),
        "columns that identify a row, by which it is drawn; empty: all columns of the files",
    )
    objective: str = setting(
        "binary",
        "kind of label: a click or rate in [0, 1], a number, one class, or a list of classes",
        choices=("binary", "regression", "multiclass", "multilabel"),
    )

    # Split.
    split: str = setting("random", "how to choose test and validation rows", choices=("random", "time", "group"))
    test_fraction: float = setting(
        0.1, "share of the rows (split=group: of the groups) for the test set; --test-data replaces it", low=0, below=1
    )
    validation_fraction: float = setting(
        0.1,
        "share of the rows (split=group: of the groups) for choosing the best epoch; --validation-data replaces it",
        above=0,
        below=1,
    )
    validation_part: int = setting(
        0, "which part of the rows validates: 1 is the next part, with split=time the one before; the test set stays",
        low=0, high=1000,
    )  # fmt: skip
    time_column: str | None = setting(None, "split=time: column that orders the rows; the latest are the test set")
    group_columns: tuple[str, ...] = setting(
        (), "split=group: rows that share a value in any of these columns stay together"
    )
    stratify_column: str | None = setting(
        None, "split=random: column of whose values each set has the same shares, for rare labels; null: none"
    )
    split_seed: int = setting(0, "random seed of the split", low=0, high=2**31 - 1)
    max_bad_rows: int | str = setting(
        0, 'bad rows to skip, as a number or as a share of all rows such as "0.1%"; more stop the command', low=0,
        high=10**9,
    )  # fmt: skip
    skip_unlabelled: bool = setting(False, "leave out rows without a label; false: they are bad rows")
    subsample: float = setting(
        1.0, "share of the rows to use, chosen at random: the same rows in every run", above=0, high=1
    )

    # Preprocessing, fitted to training rows only.
    outlier_limit: float | None = setting(
        5.0, "outliers are squeezed to within this many standard deviations of the median; null: they are not",
        above=0, high=10**9,
    )  # fmt: skip
    min_count: int = setting(
        2, "categories and tokens that occur less often in the training rows count as unknown", low=1, high=10**9
    )
    max_vocabulary: int = setting(
        200_000, "categories or tokens to keep per column, most frequent first", low=1, high=10**8
    )
    max_values: int = setting(8, "categories to keep per row of a multi-categorical column", low=1, high=10_000)
    keep_values: str = setting(
        "first", "which categories of a longer list to keep; a history that ends with the latest: last", choices=ENDS
    )
    tokenizer: str = setting(
        "regex",
        "regex: words and symbols, which the SavedModel finds itself; spacy: English rules, which callers of the "
        "SavedModel must apply",
        choices=("regex", "spacy"),
    )
    lowercase: bool = setting(True, "convert text to lower case")
    split_characters: bool = setting(
        True, "make each Chinese, Japanese, Thai, Lao, Khmer and Burmese character a token; false if words have spaces"
    )
    max_tokens: int = setting(16, "tokens to keep per text", low=1, high=10_000)
    keep_tokens: str = setting("first", "which tokens of a longer text to keep", choices=ENDS)

    # Memory and disk.
    rows_in_memory: int | None = setting(
        None, "rows of each set in memory at a time; the others are read from the cache in shuffled blocks; null: all",
        low=1, high=10**9,
    )  # fmt: skip
    cache_gb: float = setting(
        20.0, "most GB in cache/, which keeps encoded rows and downloads for later runs; 0: no cache", low=0, high=10**6
    )

    # Training.
    batch_size: int = setting(256, "rows per step", low=1, high=2**20, search=[64, 128, 256, 512, 1024])
    epochs: int = setting(20, "passes over the training rows, at most", low=1, high=100_000)
    optimizer: str = setting(
        "adam",
        "update rule; in tables of more than 4096 embeddings it updates only those in the batch",
        choices=("adam", "adagrad", "sgd"),
    )
    learning_rate: float = setting(
        0.002, "learning rate after warm-up", above=0, high=100, search={"low": 0.0002, "high": 0.02, "log": True}
    )
    hidden_share: float = setting(
        0.1, "share of the training rows in which a value is hidden, so that the model learns what to predict where "
        "one is unknown or missing, if training rows hardly show that; 0: none", low=0, below=1,
    )  # fmt: skip
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", low=0, high=10**9)
    decay: str = setting(
        "none",
        "how the learning rate falls to 0 by the last epoch; none: it does not fall",
        choices=("none", "linear", "cosine"),
        search=["none", "linear", "cosine"],
    )
    clip_norm: float | None = setting(
        None, "largest global norm of the gradients; larger ones are scaled down; null: no limit", above=0, high=10**9
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between checkpoints within an epoch; 0: every half second", low=0, high=10**6
    )
    stopping_metric: str = setting("loss", "validation metric that chooses the best epoch")
    patience: int | None = setting(
        3, "epochs without a better stopping_metric before training stops; null: no early stopping", low=1, high=100_000
    )
    allow_worse: bool = setting(
        False, "package a model even if its loss is more than twice that of the baseline on every set"
    )
    seed: int = setting(0, "random seed of weights, shuffling and dropout", low=0, high=2**31 - 1)
    deterministic: bool | None = setting(None, "same bits in every run; null: true on a CPU, false on a GPU")
    threads: int | None = setting(
        None, "threads that compute; null: one per core, and as many as before when a run continues", low=1, high=1024
    )
