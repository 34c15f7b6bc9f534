"""Edits of tiny runs: known pixels stay, ends are the samples, frames are counted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.core.errors import ConfigError, RunError
from sfumato.core.images import Batch, to_uint8
from sfumato.core.noise import Noise
from sfumato.data.catalogue import load
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.experiment.training_run import train
from sfumato.explore import interpolation as walks
from sfumato.explore import real_images as edits
from sfumato.metrics.features import FeatureNetwork
from support.experiments import DIFFUSION, GAN, experiment


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    path = tmp_path_factory.mktemp("runs") / "diffusion"
    return load_run(train(experiment(DIFFUSION, sample_images=0), path).directory)


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    path = tmp_path_factory.mktemp("runs") / "gan"
    return load_run(train(experiment(GAN, sample_images=0), path).directory)


@pytest.fixture(scope="module")
def model(diffusion: LoadedRun) -> DiffusionModel:
    return edits.diffusion_of(diffusion, "the test")


@pytest.fixture(scope="module")
def batch(diffusion: LoadedRun, model: DiffusionModel) -> Batch:
    return edits.real_batch(model, load(diffusion.experiment.data).held_out, [0, 5, 9])


def sample(model: torch.nn.Module, seed: int, label: int) -> torch.Tensor:
    return model.sample(torch.tensor([label]), Noise([seed]))


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_the_ends_of_a_walk_are_the_samples_of_its_seeds(
    diffusion: LoadedRun, sampler: str
) -> None:
    """A stochastic sampler's later draws are interpolated too."""
    changes = [f"model.sampler.kind={sampler}", "model.sampler.steps=4"]
    model = load_run(diffusion.directory, changes).model
    walk = walks.interpolate_noises(model, (3, 8), walks.Walk(5), label=2)
    torch.testing.assert_close(walk[:1], sample(model, 3, 2), rtol=0, atol=1e-4)
    torch.testing.assert_close(walk[-1:], sample(model, 8, 2), rtol=0, atol=1e-4)
    assert (walk[2:3] - walk[:1]).abs().max() > 0.05


def test_a_gan_walks_between_latent_vectors(gan: LoadedRun) -> None:
    found = walks.walks_between_noises(gan.model, 2, walks.Walk(6), seed=10)
    for k, walk in enumerate(found):
        first, last = 10 + 2 * k, 11 + 2 * k
        torch.testing.assert_close(walk[:1], sample(gan.model, first, k), rtol=0, atol=1e-5)
        torch.testing.assert_close(walk[-1:], sample(gan.model, last, k), rtol=0, atol=1e-5)


def test_interpolated_noise_keeps_its_variance() -> None:
    draws = walks.BlendedNoise((0, 1), 9, "spherical").normal(1, 100, 100)
    torch.testing.assert_close(draws.flatten(1).std(1), torch.ones(9), rtol=0.03, atol=0)
    linear = walks.BlendedNoise((0, 1), 9, "linear").normal(1, 100, 100)
    assert linear[4].std().item() == pytest.approx(0.5**0.5, rel=0.03)


def test_smoothness_is_of_the_features() -> None:
    network = FeatureNetwork("mean", "", 1, "none", lambda x: x.float().mean((1, 2, 3))[:, None])
    walk = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    found = walks.smoothness(network(to_uint8(walk).cpu()))
    assert found.mean_step == pytest.approx(51)
    assert found.detour == pytest.approx(1)


def test_reconstruction_gets_better_with_more_steps(model: DiffusionModel, batch: Batch) -> None:
    coarse, fine = (edits.reconstruct_images(model, batch, steps) for steps in (10, 160))
    assert torch.equal(fine.images, batch.images)
    assert fine.rms_error.mean() < coarse.rms_error.mean() / 10
    assert fine.rms_error.max() < 0.02
    difference = (fine.again - batch.images).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(fine.rms_error, difference)


def test_walks_between_images_end_in_their_reconstructions(
    model: DiffusionModel, diffusion: LoadedRun
) -> None:
    held_out = load(diffusion.experiment.data).held_out
    assert held_out.labels is not None
    chosen = np.flatnonzero(held_out.labels == 4)[:2].tolist()
    pair = edits.real_batch(model, held_out, chosen)
    walk = walks.interpolate_images(model, pair, walks.Walk(4), steps=20)
    again = edits.reconstruct_images(model, pair, 20).again.clamp(-1, 1)
    torch.testing.assert_close(walk[[0, -1]], again, rtol=0, atol=1e-4)
    default = walks.walks_between_images(diffusion, held_out, None, 1, walks.Walk(3, "linear"), 5)
    assert [len(walk) for walk in default] == [3]


def test_inpainting_keeps_the_known_pixels_exactly(model: DiffusionModel, batch: Batch) -> None:
    known = edits.box_mask(model.image_shape, [2, 1, 4, 3])
    assert int((known == 0).sum()) == 12
    found = edits.inpaint(model, batch, known, steps=5, resamplings=2, jump=2)
    kept = known.expand_as(found) == 1
    assert torch.equal(found[kept], batch.images[kept])
    assert (found - batch.images)[~kept].abs().mean() > 0.01
    other = edits.inpaint(model, batch, known, steps=5, resamplings=2, jump=2, seed=100)
    assert not torch.equal(found, other)


def test_a_mask_may_be_a_picture(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:6, 1:4] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask = edits.file_mask((1, 8, 8), tmp_path / "mask.png")
    assert torch.equal(mask, edits.box_mask((1, 8, 8), [2, 1, 4, 3]))
    with pytest.raises(RunError, match="8 x 8 pixels and the images 16 x 16"):
        edits.file_mask((1, 16, 16), tmp_path / "mask.png")
    with pytest.raises(RunError, match="cannot read the mask"):
        edits.file_mask((1, 8, 8), tmp_path / "none.png")
    with pytest.raises(RunError, match="does not lie within an image of 8 x 8"):
        edits.box_mask((1, 8, 8), [6, 0, 4, 4])
    with pytest.raises(RunError, match="leaves nothing to keep"):
        edits.box_mask((1, 8, 8), [0, 0, 8, 8])


def test_image_to_image_changes_more_from_a_later_start(diffusion: LoadedRun, batch: Batch) -> None:
    model = edits.diffusion_of(load_run(diffusion.directory, ["model.sampler.steps=20"]), "test")
    change = [
        (edits.image_to_image(model, batch, start) - batch.images).square().mean().item()
        for start in (0.1, 0.9)
    ]
    assert change[0] < change[1] / 2
    with pytest.raises(RunError, match=r"start 0.0 is not in \(0, 1\]"):
        edits.image_to_image(model, batch, 0.0)
    with pytest.raises(ConfigError, match="start later"):
        edits.image_to_image(model, batch, 1e-4)


def test_a_strip_has_a_frame_for_each_time_and_ends_in_the_sample(model: DiffusionModel) -> None:
    labels = torch.tensor([1, 7])
    frames = edits.strip(model, labels, range(4, 6), [1.0, 0.6, 0.4, 0.0])
    assert [frame.t for frame in frames][:: len(frames) - 1] == [1.0, 0.0]
    assert len(frames) == 4
    expected = model.sample(labels, Noise([4, 5]))
    torch.testing.assert_close(frames[-1].x_t.clamp(-1, 1), expected)
    assert torch.equal(frames[0].x_t, Noise([4, 5]).normal(1, 8, 8))


def test_an_untrained_network_predicts_no_noise_and_a_trained_one_some(
    diffusion: LoadedRun, batch: Batch
) -> None:
    """The last layer begins with zeros, so the first prediction of eps is 0 everywhere."""
    before, after = edits.noise_before_and_after(diffusion, batch, [0.1, 1.0])
    for row in before:
        assert row.predicted.abs().max() < 1e-6
        assert row.predicted_std.max() < 1e-6
    assert after[1].predicted_std.min() > 1e-3
    assert torch.equal(after[0].eps, before[1].eps)
    assert after[0].eps_std.mean().item() == pytest.approx(1, abs=0.15)
    with pytest.raises(RunError, match=r"time 0.0 is not in \(0, 1\]"):
        edits.noise_before_and_after(diffusion, batch, [0.0])


def test_what_has_no_meaning_is_refused(
    gan: LoadedRun, diffusion: LoadedRun, model: DiffusionModel
) -> None:
    with pytest.raises(RunError, match=r"inpaint needs a diffusion model, and .* 'gan'"):
        edits.diffusion_of(gan, "inpaint")
    held_out = load(diffusion.experiment.data).held_out
    with pytest.raises(RunError, match="there is no image 100000"):
        edits.real_batch(model, held_out, [100_000])
    with pytest.raises(RunError, match="--images names 3"):
        walks.walks_between_images(diffusion, held_out, [1, 2, 3], 1, walks.Walk(3, "linear"), 5)
