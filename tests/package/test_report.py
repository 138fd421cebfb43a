"""What a run writes for people: metrics.csv, plots, report.html, TensorBoard's files."""

import csv
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig

from trainer.package import plots
from trainer.package.logs import TensorBoardLog, write_metrics_csv, write_projector
from trainer.package.report import Report, page, write_report

HOSTILE = "<script>alert('x')</script>&\"'><img src=http://evil.example/x onerror=alert(1)>"
SIDES = ("train", "validation", "test")


def history(objective: str = "binary", epochs: int = 6, sides: tuple[str, ...] = SIDES) -> list[dict[str, float]]:
    """A row per epoch of a run that over-fits after a while."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "learning_rate": 0.002}
        for number, side in enumerate(sides):
            loss = 0.36 + 0.05 * math.exp(-epoch / 3) + 0.01 * number + 0.001 * number * epoch + 1e-4 * rng.normal()
            row |= {f"{side}_{name}": value for name, value in of_loss(objective, loss).items()}
        rows.append(row)
    return rows


def of_loss(objective: str, loss: float) -> dict[str, float]:
    others = {
        "binary": {"auc": 1 - loss, "calibration": 1 + loss / 50, "mse": loss / 30, "mae": math.nan},
        "regression": {"r2": 1 - loss, "rmse": math.sqrt(loss), "mae": loss / 2},
        "multiclass": {"accuracy": 1 - loss, "macro_f1": 0.9 - loss},
        "multilabel": {"auc": 1 - loss, "micro_f1": 0.9 - loss, "macro_f1": 0.8 - loss, "mse": loss / 9},
    }[objective]
    return {"loss": loss, **others, "rows": 1234.0, "weight": 1234.0}


def curve(lowest: float, bins: int = 20) -> dict[str, list[float]]:
    rates = np.geomspace(lowest, 0.6, bins)
    return {"prediction": rates.tolist(), "label": (rates * 1.1).tolist(), "weight": [7.0] * bins}


DISTRIBUTION = {
    "logit": np.linspace(-6, 1, 40).tolist(),
    "negative": np.exp(-((np.linspace(-6, 1, 40) + 3) ** 2)).tolist(),
    "positive": np.exp(-((np.linspace(-6, 1, 40) + 2) ** 2)).tolist(),
}


def test_csv_holds_every_bit_of_every_number(tmp_path: Path) -> None:
    rows = history()
    write_metrics_csv(tmp_path / "metrics.csv", rows)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [list(row) for row in written] == [list(row) for row in rows]
    np.testing.assert_array_equal(
        [list(map(float, row.values())) for row in written], [list(row.values()) for row in rows]
    )


def test_csv_leaves_absent_metrics_empty(tmp_path: Path) -> None:
    write_metrics_csv(tmp_path / "metrics.csv", [{"epoch": 1, "test_auc": math.nan}, {"epoch": 2, "test_loss": 0.5}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,test_auc,test_loss\n1,nan,\n2,,0.5\n"


def test_D60_csv_quotes_names_and_disarms_formulas(tmp_path: Path) -> None:
    names = ["=1+1", "+a", "-b", "@c", "\td", 'comma, "quote"', "line\nbreak", "plain"]
    write_metrics_csv(tmp_path / "metrics.csv", [dict.fromkeys(names, -1.5)])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        header, values = csv.reader(file)
    assert header == ["'=1+1", "'+a", "'-b", "'@c", "d", 'comma, "quote"', "line break", "plain"]
    assert values == ["-1.5"] * len(names)


def assert_picture(path: Path) -> None:
    pixels = imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 500
    assert 0.005 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.8


@pytest.mark.parametrize("objective", ["binary", "regression", "multiclass", "multilabel"])
def test_metrics_are_drawn_for_every_objective(objective: str, tmp_path: Path) -> None:
    plots.plot_metrics(tmp_path / "metrics.png", history(objective), best_epoch=3)
    assert_picture(tmp_path / "metrics.png")


def test_pictures_of_short_runs_and_odd_values_are_drawn(tmp_path: Path) -> None:
    plots.plot_metrics(tmp_path / "one.png", history(epochs=1, sides=SIDES[:2]), best_epoch=1)
    plots.plot_reliability(tmp_path / "constant.png", {"test": {"prediction": [0.1], "label": [0.0], "weight": [3.0]}})
    plots.plot_reliability(tmp_path / "rare.png", {"validation": curve(1e-7), "test": curve(1e-3, bins=2)})
    plots.plot_predictions(tmp_path / "sure.png", {**DISTRIBUTION, "logit": np.linspace(-90, 90, 40).tolist()}, "test")
    plots.plot_predictions(
        tmp_path / "flat.png", {**DISTRIBUTION, "logit": np.linspace(-2, -2 + 1e-6, 40).tolist()}, "test"
    )
    nothing: dict[str, list[float]] = {"prediction": [], "label": [], "weight": []}
    plots.plot_reliability(tmp_path / "no_curve.png", {"test": nothing})
    plots.plot_predictions(tmp_path / "no_predictions.png", {"logit": [], "negative": [], "positive": []}, "test")
    for picture in tmp_path.iterdir():
        assert_picture(picture)


def test_equal_values_give_equal_pictures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plots.plot_metrics(tmp_path / f"metrics_{name}.png", history(), best_epoch=3)
        plots.plot_reliability(tmp_path / f"reliability_{name}.png", {"test": curve(0.01)})
        plots.plot_predictions(tmp_path / f"predictions_{name}.png", DISTRIBUTION, "test")
    for name in ("metrics", "reliability", "predictions"):
        first, second = ((tmp_path / f"{name}_{copy}.png").read_bytes() for copy in "ab")
        assert first == second


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    picture = tmp_path_factory.mktemp("plots") / "metrics.png"
    plots.plot_metrics(picture, history(), best_epoch=3)
    return Report(
        title="run-1",
        facts={"variant": "wide", "training rows": 160_000, "warm": None},
        metrics={side: of_loss("binary", 0.37) for side in SIDES},
        constant=of_loss("binary", 0.4),
        objective="binary",
        hidden=(),
        history=history(),
        best_epoch=3,
        plots={"Metrics of each epoch": picture},
        settings=[
            ("learning_rate", "0.01", "environment NET_LEARNING_RATE", "step size"),
            ("batch_size", "256", "default", "rows per step"),
            ("cell", '"gru"', "default of rnn_v1", "kind of layer"),
        ],
        split={
            "rows": {"train": 800, "validation": 100, "test": 100},
            "also_in_train": {"validation": 0, "test": 3},
            "unseen": {side: {"item": 0.061, "country": 0.0} for side in SIDES[1:]},
            "groups": {side: {"groups": 41, "also_elsewhere": 0, "rows_mean": 2.5} for side in SIDES},
        },
        timings={"stages": {"train": {"seconds": 4.0, "passes": 1, "rows": 800, "rows_per_second": 200.0},
                            "read": {"seconds": 0.5, "passes": 1}}, "peak_memory_bytes": 2**30},
        environment={"python": "3.11.7", "packages": {"keras": "3.15.1"}, "devices": ["CPU"], "commit": None},
        warnings=["3 test rows have a key that a training row has too."],
    )  # fmt: skip


class Reader(HTMLParser):
    """Checks that tags are balanced; gathers what is shown and what the page points to."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_page_shows_what_matters(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report)
    shown = read((tmp_path / "report.html").read_text(encoding="utf-8")).text
    for words in (
        "Epoch 3 of 6 was best on the validation set",
        "On 1,234 test rows, its loss is 7.5% below that of the baseline, which predicts the mean label of the",
        "160,000",
        "3 test rows have a key",
        "6.1%",
        "environment NET_LEARNING_RATE",
        "keras 3.15.1",
    ):
        assert words in shown


def test_page_of_classes_speaks_of_shares_and_hides_what_repeats_itself(report: Report) -> None:
    of_classes = of_loss("multiclass", 0.37) | {"log_loss": 0.37}
    classes = report._replace(
        objective="multiclass", hidden={"log_loss"}, metrics=dict.fromkeys(SIDES, of_classes),
        constant=of_loss("multiclass", 0.4), history=history("multiclass"), facts={"Weight": "impressions"},
    )  # fmt: skip
    shown = " ".join(read(page(classes)).text.split())
    assert "the baseline, which predicts each class with its share of the training rows, for every row." in shown
    assert "label of the training rows" not in shown
    assert "Log loss" not in shown
    assert "Loss: log loss (cross-entropy)." in shown
    assert "All metrics and means are weighted by impressions." in shown
    assert "Log loss" in read(page(classes._replace(hidden=()))).text


def test_page_shows_changed_settings_first(report: Report) -> None:
    changed, every = re.split("All 3 settings", read(page(report)).text)
    assert "learning_rate" in changed
    assert "batch_size" not in changed
    assert all(name in every for name in ("learning_rate", "batch_size", "cell"))
    assert "All settings have their defaults." in page(report._replace(settings=report.settings[1:]))


def test_page_is_self_contained_and_runs_nothing(report: Report) -> None:
    text = page(report)
    reader = read(text)
    assert not reader.seen & {"script", "link", "iframe", "object", "base", "form", "a"}
    for name, value in reader.attributes:
        assert not name.startswith("on")
        assert name != "href"
        assert name != "src" or (value or "").startswith("data:image/png;base64,")
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_S19_page_escapes_hostile_names_wherever_they_stand(report: Report) -> None:
    hostile = report._replace(
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        metrics={side: {**report.metrics[side], HOSTILE: 1.0} for side in SIDES},
        constant={**report.constant, HOSTILE: 1.0},
        plots={HOSTILE: next(iter(report.plots.values()))},
        settings=[(HOSTILE,) * 4],
        split={
            "rows": {HOSTILE: 1},
            "also_in_train": {HOSTILE: 0},
            "unseen": {HOSTILE: {HOSTILE: 0.5}},
            "groups": {HOSTILE: {HOSTILE: 1}},
        },
        timings={"stages": {HOSTILE: {"seconds": 1.0}}},
        environment={HOSTILE: HOSTILE, "more": {HOSTILE: [HOSTILE]}},
        warnings=[HOSTILE],
    )
    reader = read(page(hostile))
    assert reader.seen == read(page(report)).seen
    assert {name for name, _ in reader.attributes} == {name for name, _ in read(page(report)).attributes}
    assert reader.text.count("<script>alert") > 15


def test_page_of_a_bare_run_is_whole(report: Report) -> None:
    side = {"validation": {"loss": math.nan, "rows": 0.0}}
    bare = Report(
        title="bare", facts={}, metrics=side, constant={}, objective="binary", hidden=(),
        history=[{"epoch": 1, "validation_loss": math.nan}],
        best_epoch=1, plots={}, settings=[], split={}, timings={}, environment={}, warnings=[],
    )  # fmt: skip
    assert "–" in read(page(bare)).text


def log_run(folder: Path, weights: dict[str, Any]) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def predict(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.sigmoid(x, name="click_probability")

    with TensorBoardLog(folder) as log:
        log.settings([("label_column", '"a|b <b>"', "default", "what is *predicted*")])
        log.graph(predict.get_concrete_function())
        for row in history():
            log.epoch(row, weights)


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    log_run(tmp_path, {"dense/kernel": tf.Variable(np.linspace(-1, 1, 50, dtype=np.float32))})
    for side in SIDES:
        logged = EventAccumulator(str(tmp_path / side), size_guidance={"tensors": 0}).Reload()
        assert {"metrics/loss", "metrics/auc"} <= set(logged.Tags()["tensors"])
        events = logged.Tensors("metrics/loss")
        assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
        values = [float(tf.make_ndarray(event.tensor_proto)) for event in events]
        assert values == pytest.approx([row[f"{side}_loss"] for row in history()])
    logged = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0}).Reload()
    assert "training/learning_rate" in logged.Tags()["tensors"]
    buckets = tf.make_ndarray(logged.Tensors("dense/kernel")[-1].tensor_proto)
    assert buckets[:, 2].sum() == 50
    assert (buckets[0, 0], buckets[-1, 1]) == (-1, 1)
    assert "click_probability" in {node.name for node in logged.Graph().node}
    table = tf.make_ndarray(logged.Tensors("configuration")[0].tensor_proto).item()
    assert table.decode().endswith('| label\\_column | "a\\|b &lt;b&gt;" | default | what is \\*predicted\\* |')


def test_tensorboard_log_skips_weights_that_are_not_finite_or_too_many(tmp_path: Path) -> None:
    log_run(tmp_path, {"nan": [1.0, math.nan], "empty": np.zeros(0), "huge": np.zeros(2**20 + 1, np.float32)})
    tags = set(EventAccumulator(str(tmp_path / "train")).Reload().Tags()["tensors"])
    assert not tags & {"nan", "empty", "huge"}


def test_projector_files_hold_vectors_and_names_in_step(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    names = ["plain", "tab\tand\nline", "", "日本"]
    write_projector(tmp_path, {"../item": (vectors, names), "title": (vectors[:1], ["a"])})
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [entry.tensor_name for entry in config.embeddings] == ["../item", "title"]
    entry = config.embeddings[0]
    vectors_read = np.loadtxt(tmp_path / entry.tensor_path, delimiter="\t", dtype=np.float32)
    np.testing.assert_allclose(vectors_read, vectors, rtol=1e-5)
    shown = (tmp_path / entry.metadata_path).read_text(encoding="utf-8").splitlines()
    assert shown == ["plain", "tab and line", "''", "日本"]
    assert {path.parent for path in tmp_path.rglob("*")} == {tmp_path}


def test_table_files_hold_neither_controls_nor_markup_nor_formulas(tmp_path: Path) -> None:
    hostile = {
        "=1+1": "'=1+1", "@SUM(A1)": "'@SUM(A1)", "-2+3": "'-2+3", "+cmd|' /C calc'!A0": "'+cmd|' /C calc'!A0",
        "-12.5": "-12.5", "+7": "+7", "  =1": "'=1", "<script>alert(1)</script>": "&lt;script>alert(1)&lt;/script>",
        "\x1b[31mred": "\\x1b[31mred", "a\tb\nc": "a b c", "": "''", "R&D": "R&D", "漢字": "漢字",
        "\u202eabc": "\\u202eabc", "\ud800": "\\ud800",
    }  # fmt: skip
    vectors = np.zeros((len(hostile), 2), np.float32)
    write_projector(tmp_path, {"item": (vectors, list(hostile))})
    assert (tmp_path / "embedding_0_names.tsv").read_text().split("\n") == [*hostile.values(), ""]
    write_metrics_csv(tmp_path / "metrics.csv", [dict.fromkeys(hostile, -0.5)])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [list(hostile.values()), ["-0.5"] * len(hostile)]
