"""The page in headless Chromium: no errors, no sideways scrolling on a phone, working controls."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from report.fixture import write_study
from report.test_evaluation import EVALUATION
from sfumato.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((name for name in NAMES if shutil.which(name)), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

# Headless windows have a least width, an iframe has none. A document in srcdoc may be examined.
HOST = """<!doctype html><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, width = frame.clientWidth;
    const wide = [...page.body.querySelectorAll("*")].filter((element) =>
      !element.closest(".scroll, pre, svg, .film") &&
      element.getBoundingClientRect().right > width + 1);
    const slider = page.querySelector("input[type=range]");
    const film = page.querySelector(".film img");
    const note = film.closest("figure").querySelector("small");
    const at = (value) => {{
      slider.value = value;
      slider.dispatchEvent(new Event("input"));
      return [film.style.transform, note.textContent];
    }};
    const name = () => page.querySelector("tbody th").textContent.trim();
    const button = page.querySelectorAll("thead button")[1];
    button.click(); const best = name();
    button.click(); const worst = name();
    return {{scrolls: page.documentElement.scrollWidth, width,
             wide: wide.map((element) => element.outerHTML.slice(0, 80)),
             start: at(0), end: at(1000), paused: page.getElementById("pause").checked,
             best, worst, background: getComputedStyle(page.documentElement).backgroundColor}};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>"""


@pytest.mark.slow
def test_page_in_chromium(tmp_path: Path) -> None:
    results = write_study(tmp_path)
    results["arms"][0]["runs"][0] |= EVALUATION  # a table by class, wider than a phone
    (tmp_path / "results.json").write_text(json.dumps(results))
    content = html.escape(write_report(tmp_path).read_text())
    frames = "".join(
        f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{content}"></iframe>'
        for width in (320, 390, 1200)
    )
    host = tmp_path / "host.html"
    host.write_text(HOST.format(frames=frames))
    for scheme, background in (("1", "rgb(248, 245, 239)"), ("0", "rgb(24, 21, 18)")):
        assert CHROMIUM is not None
        process = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--enable-logging=stderr", "--window-size=1300,900",
                f"--blink-settings=preferredColorScheme={scheme}",
                f"--user-data-dir={tmp_path / scheme}", "--dump-dom", host.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert not re.search(r"CONSOLE", process.stderr), process.stderr
        (text,) = re.findall(r'<pre id="found">(.*?)</pre>', process.stdout, re.S)[-1:]
        found = json.loads(html.unescape(text))
        assert [page["width"] for page in found] == [320, 390, 1200]
        for page in found:
            assert page["scrolls"] <= page["width"], page["wide"]
            assert page["wide"] == []
            assert page["start"] == ["translateY(0%)", "after 0 images"]
            assert page["end"] == [f"translateY({-800 / 9:.4f}%)", "after 200,000 images"]
            assert page["paused"]
            assert (page["best"], page["worst"]) == ("ddpm-cosine", "dcgan")
            assert page["background"] == background
