"""The page: right numbers in the right places, well formed, accessible, and closed to the world."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from report.fixture import ACCURACY, ARMS, FLOOR, FRECHET, write_run, write_study
from sfumato.core.errors import RunError
from sfumato.report import write_report
from sfumato.report.curves import level_figures
from sfumato.report.sections import published_rows
from sfumato.runs.result_files import read_results

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Checks nesting while it reads; collects elements, and the text of each table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"repeated attribute in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data + " "

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    write_study(directory)
    write_report(directory)
    return directory


@pytest.fixture(scope="module")
def page(study: Path) -> Page:
    return Page((study / "report.html").read_text())


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def test_table_holds_every_score_with_interval_and_ratio(study: Path) -> None:
    text = (study / "report.html").read_text()
    rows = re.findall(r"<tr.*?</tr>", text.split("<tbody")[1].split("</tbody")[0], re.S)
    assert len(rows) == 3
    first = _squeeze(re.sub(r"<[^>]+>", " ", rows[0]))
    assert first == (
        "ddpm-linear 8.13 7.42 to 8.83 · 1.8 × floor · floor + 3.72 "
        "0.964 0.945 to 0.983 · real images − 0.017 "
        "64 s 3.1 k images/s 1.25 M 200,064 50 sampled in 7.9 s"
    )
    for row, arm in zip(rows, ARMS, strict=True):
        assert f'data-sort="{FRECHET[arm]}"' in row
        assert f'data-sort="{ACCURACY[arm]}"' in row
    foot = _squeeze(re.sub(r"<[^>]+>", " ", text.split("<tfoot")[1].split("</tfoot")[0]))
    assert "4.41 3.99 to 4.82" in foot
    assert "0.981 0.966 to 0.995" in foot


def test_floor_line_stands_at_the_floor(study: Path) -> None:
    """The ticks tell the scale independently of the code that placed the line."""
    svg = (study / "figures" / "scores-frechet_distance.svg").read_text()
    ticks = re.findall(r'text-anchor: middle[^>]* x="([\d.]+)"[^>]*>([\d.]+)</text>', svg)
    (x_0, v_0), (x_1, v_1) = [(float(x), float(v)) for x, v in (ticks[0], ticks[2])]
    ((left, right),) = re.findall(r'class="floor"><path d="M ([\d.]+) [\d.]+ L ([\d.]+) ', svg)
    assert left == right
    value = v_0 + (float(left) - x_0) / (x_1 - x_0) * (v_1 - v_0)
    assert value == pytest.approx(FLOOR, abs=0.02)
    dots = [float(x) for x in re.findall(r'<title>.*?<use href="#\w+" x="([\d.]+)"', svg)]
    values = [v_0 + (x - x_0) / (x_1 - x_0) * (v_1 - v_0) for x in dots]
    assert values == pytest.approx(list(FRECHET.values()), abs=0.02)


def test_sections_come_in_order(page: Page) -> None:
    ids = [e["id"] for _, e in page.elements if _ == "section"]
    assert ids == [
        "result", "scores", "published", "verdicts", "samples", "compared", "walks", "development",
        "curves", "fronts", "warnings", "differences", "shrunk", "protocol", "data", "machine",
        "reproduce",
    ]  # fmt: skip
    links = {e["href"] for e in page.all("a")}
    assert links <= {f"#{name}" for name in ids}
    for words in ("sfumato study demo --output studies/demo", "classifier, 64 dimensions",
                  "Example CPU @ 2.60 GHz", "the generator's loss rose", "linear_beta",
                  "ddpm-linear is shown to be better than dcgan",
                  "1 run is still to be done", "Diverged: ddpm-linear, seed 7",
                  "model.network.channels: 128 -> 32", "at most 1.5 hours",
                  "by pixels 0.930 [0.891 to 0.969]; by features 0.810",
                  "dcgan 18.4 at NFE 1, ddpm-linear 14.0 at NFE 10 and ddpm-cosine 7.51 at NFE 50",
                  ):  # fmt: skip
        assert words in page.text


def test_published_figures_stand_beside_ours(study: Path) -> None:
    """The floor for real images, the mean score of an arm, its last training loss; or nothing."""
    rows = published_rows(read_results(study))[1:]
    assert [row[0] for row in rows] == ["real images", "DCGAN", "loss", "another network"]
    assert [row[1] for row in rows] == ["3.50", "22.5", "0.040", "9.50"]
    assert [row[3] for row in rows] == ["4.41", "18.4", "0.081", "–"]
    assert [row[5] for row in rows] == ["–", "4.41", "–", "–"]


def test_the_loss_by_noise_level_stands_in_the_middle_of_its_bin(study: Path) -> None:
    levels = {"-inf to -6": 1.0, "-6 to -3": 2.0, "3 to inf": 4.0}
    row = {f"loss_by_log_snr/{name}": value for name, value in levels.items()}
    ((name, svg),) = level_figures([("ddpm", 0, [row])])
    assert name == "loss-by-noise-level"
    (line,) = re.findall(r'<g class="line"><path d="([^"]+)"', svg)
    x = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", line)]
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx((-4.5 + 7.5) / (4.5 + 7.5), abs=0.01)


def test_page_asks_the_network_for_nothing(study: Path, page: Page) -> None:
    text = (study / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import|src=\"//", text)
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), f"{key}={value}"


def test_every_picture_has_a_text_and_real_content(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 3 + 1 + 3 + 1 + 3  # grids, real, animations, a comparison, walks
    assert all(len(image["alt"]) > 15 for image in images)
    for image in images:
        content = base64.b64decode(image["src"].partition("base64,")[2])
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
    assert all(svg.get("role") == "img" for svg in page.all("svg"))
    assert len(page.all("svg")) == 2 + 2 + 6 + 1 + 2 + 1  # ... noise levels, fronts, NFE
    assert len(page.all("title")) == 1 + 14 + 6 + 8  # the page, every figure, every dot, fronts


def test_only_pictures_of_a_class_a_row_say_so(study: Path, page: Page) -> None:
    """The GAN of the fixture is unconditional; a run that was not scored has its last samples."""
    alts = [image["alt"] for image in page.all("img")]
    rows = ", one class a row: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."
    grids = [f"Samples of {arm}, seed 0" + ("." if arm == "dcgan" else rows) for arm in ARMS]
    assert alts[:4] == [*grids, f"Real held-out images{rows}"]
    assert page.text.count("one class per row") == 3
    assert page.text.lower().count("class per row") == 3
    text = (study / "report.md").read_text()
    assert all(alt in text for alt in alts[:4])


def test_headings_labels_and_ids(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {label["for"] for label in page.all("label")} <= set(ids)
    assert page.all("html") == [{"lang": "en"}]
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert page.text.count("Small print") == len(page.all("caption")) - 2


def test_film_holds_all_frames_in_order(study: Path, page: Page) -> None:
    film = next(image for image in page.all("img") if "data-frames" in image)
    assert film["data-frames"] == "9"
    assert film["data-images"].split() == [str(25_000 * k) for k in range(9)]
    files = sorted((study / "runs/ddpm-linear/seed-0/samples").iterdir())
    with Image.open(io.BytesIO(base64.b64decode(film["src"].partition(",")[2]))) as sprite:
        height = sprite.height // 9
        for k, file in enumerate(files):
            frame = sprite.crop((0, k * height, sprite.width, (k + 1) * height)).convert("L")
            assert frame.tobytes() == Image.open(file).tobytes()


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    content = write_study(tmp_path)
    content["title"] = "<script>alert(1)</script>"
    content["arms"][0]["name"] = 'a"><img src=x onerror=alert(1)>'
    (tmp_path / "results.json").write_text(json.dumps(content))
    page = Page(write_report(tmp_path).read_text())
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.elements)


def test_several_seeds(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=(0, 1, 2))
    page = Page(write_report(tmp_path).read_text())
    text = _squeeze(page.text)
    assert "with 3 training seeds each" in text
    assert "3 seeds: 8.13 to 8.93" in text
    assert "8.53" in text  # the mean of the three
    assert "ddpm-linear, seed 2" in text
    assert len([i for i in page.all("img") if "data-frames" not in i]) == 3 * 3 + 1 + 1 + 3


def test_missing_pieces_are_left_out(tmp_path: Path) -> None:
    content = write_study(tmp_path)
    shutil.rmtree(tmp_path / "runs" / "dcgan")
    (tmp_path / "runs/ddpm-linear/seed-0/grid.png").write_bytes(b"not a picture")
    shutil.rmtree(tmp_path / "runs/ddpm-linear/seed-0/samples")
    (tmp_path / "runs/ddpm-cosine/seed-0/training.webp").unlink()
    with (tmp_path / "runs/ddpm-cosine/seed-0/metrics.jsonl").open("a") as log:
        log.write('{"images": 1, "loss/deno')
    content["verdicts"] = []
    content["metrics"][0]["floor"] = None
    scores = [arm["runs"][0]["scores"] for arm in content["arms"]]
    scores[0]["frechet_distance"] |= {"low": None, "high": None}
    scores[1]["frechet_distance"] = None
    scores[2]["frechet_distance"]["value"] = float("nan")
    for key in ("description", "created", "machine", "commands", "protocol", "budget"):
        del content[key]
    (tmp_path / "results.json").write_text(json.dumps(content))
    page = Page(write_report(tmp_path).read_text())
    assert "verdicts" not in [e.get("id") for _, e in page.elements]
    assert "no verdict was computed" in page.text
    films = [i for i in page.all("img") if "data-frames" in i]
    assert [film["data-frames"] for film in films] == ["9", "9"]
    assert films[0]["data-images"] == "", "frames of training.webp do not say when they were drawn"


def test_single_run_before_and_after_its_evaluation(tmp_path: Path) -> None:
    run = tmp_path / "digits-ddpm"
    write_run(run, "ddpm-cosine", 0)
    (run / "grid.png").unlink()
    config = {"name": "digits-ddpm", "training": {"seed": 3, "budget_images": 200_000}}
    (run / "config.json").write_text(json.dumps(config))
    summary = {
        "parameters": 1_248_001,
        "sampled_parameters": 750_000,
        "images_seen": 200_064,
        "train_seconds": 64.2,
        "nfe": 50,
    }
    (run / "summary.json").write_text(json.dumps(summary))
    text = _squeeze(Page(write_report(run).read_text()).text)
    assert "One model was trained, until it had seen 200,000 images. Nothing was scored" in text
    assert "750 k 1.25 M to train" in text

    metric = {"key": "frechet_distance", "label": "Fréchet distance", "better": "lower"}
    evaluation = {
        "metrics": [{**metric, "floor": {"value": 4.0}}],
        "scores": {"frechet_distance": {"value": 8.0, "low": 7.0, "high": 9.0}},
        "protocol": {"num_images": 360},
        "sampling": {"sampler": {"kind": "ancestral", "steps": 50}},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    page = Page(write_report(run).read_text())
    text = _squeeze(page.text)
    assert "It reaches a Fréchet distance of 8.00 (95 % interval 7.00 to 9.00; 2 × floor)" in text
    assert "num images 360" in text
    assert "sampler · steps 50" in text
    assert len(page.all("img")) == 2  # without grid.png the last samples of training stand in


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "x", "arms": [', r"results\.json is not valid JSON .*; it may be cut short"),
        ("[1, 2]", r"results\.json holds \[1, 2\] where a JSON object belongs"),
        ('{"name": "x"}', r"results\.json: key 'arms' is missing; repeat the study"),
        (
            '{"name": "x", "arms": []}',
            r"results\.json has no arm with results; run `sfumato study`",
        ),
        ('{"version": 99, "name": "x", "arms": []}', r"written by a newer version .*schema 99"),
        (
            '{"name": "x", "arms": [{"name": "a", "parameters": "many"}]}',
            r"'arms\.0\.parameters' is 'many': .*valid integer",
        ),
    ],
)
def test_garbled_results_name_what_value_and_remedy(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_other_directories_and_full_disks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"neither a study nor a run: it has no results\.json"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text('{"name": "x", "arms": [{"name": "a"}]}')
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write the report into .*: File exists"):
        write_report(tmp_path)


def test_report_needs_no_torch() -> None:
    code = "import sys, sfumato.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_both_modes_meets_wcag_aa(study: Path) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 for text; here also for the lines that share its colour."""
    css = (study / "report.html").read_text().partition("</style>")[0]
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    modes = []
    for pattern in (r"\n:root \{(.*?)\}", r"dark\) \{\s*:root \{(.*?)\}"):
        blocks = re.findall(pattern, css, re.S)
        modes.append(dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})\b", " ".join(blocks))))
    for mode in modes:
        for surface in ("paper", "raised", "glow"):
            for text in ("ink", "quiet"):
                assert _contrast(mode[text], mode[surface]) >= 4.5, (text, surface)
        for k in range(8):
            assert _contrast(mode[f"c{k}"], mode["paper"]) >= 4.5, k
    assert modes[0]["paper"] != modes[1]["paper"]
