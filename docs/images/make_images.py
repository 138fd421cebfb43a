"""Make the pictures of the README: `python docs/images/make_images.py REPORT`, REPORT being report.html of a run.

flow.png is drawn with matplotlib; report.png is a screenshot of the report by Chromium, which must be installed.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

FOLDER = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BLUE, GREEN, GREY = "#dbeafe", "#dcfce7", "#f3f4f6"

# left edge, bottom, title, text, colour
ROWS = (0.1, 1.9, "Rows", "files, gs://\nor a BigQuery export", GREY)
SPLIT = (3.5, 1.9, "Check and split", "training, validation\nand test rows", BLUE)
FEATURES = (6.9, 1.9, "Features", "vocabularies and scales,\nfitted on training rows", BLUE)
NETWORK = (0.1, 0.1, "Network", "one file\nin networks/", GREY)
TRAINING = (3.5, 0.1, "Training", "epochs, checkpoints,\nearly stopping", BLUE)
PACKAGE = (6.9, 0.1, "Package", "one zip: report, metrics,\nweights, SavedModel", GREEN)
BOXES = (ROWS, SPLIT, FEATURES, NETWORK, TRAINING, PACKAGE)
WIDTH, HEIGHT = 2.7, 1.3
CONFIGURATION = 3.7  # the bottom of the bar above the boxes


def main() -> None:
    draw_flow(FOLDER / "flow.png")
    photograph(Path(sys.argv[1]), FOLDER / "report.png")


def draw_flow(path: Path) -> None:
    """The way from rows to a package."""
    mpl.rcParams["font.family"] = "DejaVu Sans"
    figure, axes = plt.subplots(figsize=(9.7, 4.5))
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, 9.7), ylim=(0, 4.5))
    axes.axis("off")
    for x, y, title, text, colour in BOXES:
        draw_box(axes, x, y, WIDTH, HEIGHT, colour)
        axes.text(x + WIDTH / 2, y + 0.97, title, ha="center", va="center", fontsize=15, weight="bold")
        axes.text(x + WIDTH / 2, y + 0.42, text, ha="center", va="center", fontsize=12.5, color="#374151")
    draw_box(axes, ROWS[0], CONFIGURATION, FEATURES[0] + WIDTH - ROWS[0], 0.65, GREY)
    axes.text(
        4.85, CONFIGURATION + 0.325, "Configuration: a variant in variant_config.json, NET_* for one run",
        ha="center", va="center", fontsize=12.5,
    )  # fmt: skip
    for x, y, *_ in (ROWS, SPLIT, NETWORK, TRAINING):
        draw_arrow(axes, (x + WIDTH, y + HEIGHT / 2), (x + WIDTH + 0.7, y + HEIGHT / 2))
    draw_arrow(axes, (FEATURES[0] + 0.3, FEATURES[1]), (TRAINING[0] + WIDTH - 0.3, TRAINING[1] + HEIGHT))
    for x, y, *_ in (SPLIT, FEATURES):
        draw_arrow(axes, (x + WIDTH / 2, CONFIGURATION), (x + WIDTH / 2, y + HEIGHT))
    figure.savefig(path, dpi=120)
    save_small(path)


def draw_box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", facecolor=colour, edgecolor="#6b7280"
        )
    )


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=18, color="#6b7280", lw=1.6, shrinkA=2, shrinkB=2)
    )


def photograph(page: Path, path: Path) -> None:
    """The upper part of a page, as a browser shows it."""
    if not page.is_file():
        sys.exit(f"There is no {page}. Train first: fab train --run=first")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("This needs Chromium: Debian's package chromium.")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
                f"--user-data-dir={profile}", "--window-size=1000,1180", f"--screenshot={path}",
                page.absolute().as_uri(),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
    save_small(path)


def save_small(path: Path) -> None:
    """The picture in 128 colours, which takes a third of the bytes."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
