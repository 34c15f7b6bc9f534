"""The table of CONTRIBUTING, followed literally in a copy of the package: one new member of each.

A study then trains, samples and scores with all of them, through the command line.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "sfumato"

SCHEDULE = '''
@component
class QuadraticSchedule(NoiseSchedule):
    """alpha_t^2 = 1 - t^2, as a table."""

    kind: Literal["quadratic"] = "quadratic"
    num_steps: int = 100

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / num_steps."""
        t = torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64)
        return _table_of(1 - t**2, 0.999)


'''
SAMPLER = '''
"""A sampler of first order."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from sfumato.core.config import component
from sfumato.core.images import Images
from sfumato.diffusion.denoiser import AnyClip, ClipToRange
from sfumato.diffusion.grid import AnyGrid, UniformGrid
from sfumato.diffusion.noise_schedule import per_image
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step


@component
class PlainSampler(Sampler):
    """Keeps the predicted noise in each step. NFE: `steps`. Order: 1."""

    kind: Literal["plain"] = "plain"
    steps: int = 5
    grid: AnyGrid = UniformGrid()
    clip: AnyClip = ClipToRange()

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        for t, s in pairwise(route.times):
            denoised = route.denoised(x, t)
            alpha, sigma = route.schedule.alpha_sigma(s)
            x = per_image(alpha, x) * denoised.x_0 + per_image(sigma, x) * denoised.eps
            yield x, denoised.x_0
'''
NETWORK = '''
"""A network of two convolutions."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import component
from sfumato.core.images import Labels, Shape
from sfumato.networks.layers import TimeEmbedding


@component
class TwoLayersConfig:
    """Two convolutions, the time added between them."""

    kind: Literal["two_layers"] = "two_layers"
    channels: int = 8

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "TwoLayers":
        """The network for images of `image_shape`."""
        return TwoLayers(self.channels, image_shape[0], out_channels or image_shape[0])


class TwoLayers(nn.Module):
    """Maps a noisy image and its noise label to an output image."""

    def __init__(self, channels: int, image_channels: int, out_channels: int) -> None:
        super().__init__()
        self.embed_time = TimeEmbedding(16, channels)
        self.first = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, noise_label: Tensor, labels: Labels | None = None) -> Tensor:
        return self.last(F.silu(self.first(x) + self.embed_time(noise_label)[:, :, None, None]))
'''
METRIC = '''
"""How many features of the samples are larger than the mean real one."""

from sfumato.metrics.estimate import Estimate, share_of
from sfumato.metrics.features import ImageFeatures
from sfumato.metrics.metric import Metric


def _large_share(fake: ImageFeatures, real: ImageFeatures) -> Estimate:
    return share_of(fake.vectors.mean(1) > real.vectors.mean(), fake.strata)


LARGE_SHARE = Metric(
    key="large_share",
    label="Large features",
    better="higher",
    needs=frozenset({"features"}),
    compute=_large_share,
)
'''
DATA = '''
"""Stripes: images whose class is the direction of their lines."""

from pathlib import Path

import numpy as np

from sfumato.data.source import RawSplit, RawSplits, Source


def stripes() -> Source:
    """240 grey 8x8 images of two classes, made here."""

    def read() -> RawSplits:
        rng = np.random.default_rng(0)
        lines = np.where(rng.random((240, 1, 8)) < 0.5, 40, 200)
        rows = np.repeat(lines[:, :, :, None], 8, axis=3)
        labels = np.arange(240) % 2
        turned = np.where(labels[:, None, None, None] == 1, rows.swapaxes(2, 3), rows)
        images = (turned + rng.integers(-20, 20, turned.shape)).astype(np.uint8)
        return RawSplits(RawSplit(images, labels.astype(np.int64)), None, ("across", "down"))

    return Source(name="stripes", files=(), root=Path(), read=read, held_out=0.4)
'''
RECIPE = """
[data]
source = "stripes"

[model]
kind = "diffusion"
network = { kind = "two_layers" }
schedule = { kind = "quadratic" }
sampler = { kind = "plain" }

[training]
budget_images = 640
batch_size = 32
learning_rate = 1e-2
performance = "reference"
sample_images = 0
tensorboard = false
"""
STUDY = """
factors = ["model.schedule"]
budget = { images = 640 }
seeds = [0]

[evaluation]
metrics = ["frechet_distance", "large_share"]

[arms.quadratic]
recipe = "stripes"

[arms.cosine]
recipe = "stripes"
model.schedule = { kind = "cosine" }
"""


def insert(file: Path, before: str, text: str) -> None:
    """Put text before the only line of the file that begins so."""
    content = file.read_text()
    assert content.count(f"\n{before}") == 1, f"{file.name}: {before}"
    file.write_text(content.replace(f"\n{before}", f"\n{text}{before}"))


def list_in(file: Path, opening: str, member: str) -> None:
    """Put a member first into the union, list or mapping that opens so."""
    content = file.read_text()
    assert content.count(f"\n{opening}\n") == 1, f"{file.name}: {opening}"
    file.write_text(content.replace(f"\n{opening}\n", f"\n{opening}\n    {member}\n"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package to which one of each was added, row by row of the table."""
    copy = tmp_path_factory.mktemp("contributing") / "sfumato"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    schedules = copy / "diffusion" / "schedules.py"
    insert(schedules, "Schedule = Annotated[", SCHEDULE)
    list_in(schedules, "Schedule = Annotated[", "QuadraticSchedule |")

    samplers = copy / "diffusion" / "samplers"
    (samplers / "plain.py").write_text(SAMPLER)
    line = "from sfumato.diffusion.samplers.plain import PlainSampler\n\n"
    insert(samplers / "__init__.py", "AnySampler = Annotated[", line)
    list_in(samplers / "__init__.py", "AnySampler = Annotated[", "PlainSampler |")

    (copy / "networks" / "two_layers.py").write_text(NETWORK)
    line = "from sfumato.networks.two_layers import TwoLayersConfig\n\n"
    insert(copy / "networks" / "__init__.py", "Network = Annotated[", line)
    list_in(copy / "networks" / "__init__.py", "Network = Annotated[", "TwoLayersConfig |")

    (copy / "metrics" / "large_share.py").write_text(METRIC)
    line = "from sfumato.metrics.large_share import LARGE_SHARE\n\n"
    insert(copy / "metrics" / "__init__.py", "METRICS: tuple[Metric, ...] = (", line)
    list_in(copy / "metrics" / "__init__.py", "METRICS: tuple[Metric, ...] = (", "LARGE_SHARE,")

    (copy / "data" / "stripes.py").write_text(DATA)
    line = "from sfumato.data.stripes import stripes\n\n"
    insert(copy / "data" / "catalogue.py", "CATALOGUE = {", line)
    entry = '"stripes": NamedSet(stripes, "240", Form((1, 8, 8), 2), "made here"),'
    list_in(copy / "data" / "catalogue.py", "CATALOGUE = {", entry)

    (copy / "recipes" / "stripes.toml").write_text(RECIPE)
    (copy / "recipes" / "stripes-study.toml").write_text(STUDY)
    return copy


def test_a_study_with_one_new_member_of_each_kind(package: Path, tmp_path: Path) -> None:
    """It names the new schedule, sampler, network, metric, data source and recipe, and ends."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        "SFUMATO_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "sfumato", "study", "stripes-study", "-o", str(tmp_path / "s")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    config = json.loads((tmp_path / "s/runs/quadratic/seed-0/config.json").read_text())
    model = config["model"]
    kinds = [model[part]["kind"] for part in ("schedule", "sampler", "network")]
    assert kinds == ["quadratic", "plain", "two_layers"]
    scores = json.loads((tmp_path / "s/runs/quadratic/seed-0/evaluation.json").read_text())
    assert 0 <= scores["scores"]["large_share"]["value"] <= 1
    assert "Large features" in (tmp_path / "s/report.html").read_text()
