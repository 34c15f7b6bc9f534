"""A study directory as the study engine writes it, with made-up numbers and real digits."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from sfumato.core.pictures import image_grid, save_animation

ARMS = ("ddpm-linear", "ddpm-cosine", "dcgan")
FRECHET = {"ddpm-linear": 8.127, "ddpm-cosine": 7.514, "dcgan": 18.36}
ACCURACY = {"ddpm-linear": 0.9639, "ddpm-cosine": 0.9722, "dcgan": 0.8917}
CLASSES = [str(k) for k in range(10)]
FLOOR, REAL_ACCURACY = 4.406, 0.9806


def estimate(value: float, spread: float, n: int = 360) -> dict[str, Any]:
    low, high = value - 1.96 * spread, value + 1.96 * spread
    return {"value": value, "low": low, "high": high, "n": n, "standard_error": spread}


def digits(strength: float, seed: int) -> np.ndarray:
    """80 digits, one class a row, with noise of the given strength mixed in."""
    data = load_digits()
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(data.target == label)[:60] for label in range(10)]
    chosen = np.concatenate([rng.choice(row, 8, replace=False) for row in rows])
    images = data.images[chosen] * 255 / 16
    noise = np.random.default_rng(0).normal(110, 70, images.shape)
    mixed = (1 - strength) * images + strength * noise
    return np.clip(mixed, 0, 255).astype(np.uint8)[:, None]


def write_run(directory: Path, arm: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *arm.encode()])
    (directory / "samples").mkdir(parents=True)
    strength = {"ddpm-linear": 0.1, "ddpm-cosine": 0.06, "dcgan": 0.2}[arm]
    image_grid(digits(strength, seed), columns=8, scale=4, padding=3).save(directory / "grid.png")
    frames = []
    for k in range(9):
        share = k / 8
        frame = image_grid(
            digits(1 - (1 - strength) * share**0.5, seed), columns=8, scale=4, padding=3
        )
        frame.save(directory / "samples" / f"{int(share * 200_000):012d}.png")
        frames.append(frame)
    save_animation(frames, directory / "training.webp", fps=4)
    rows = []
    for k in range(1, 401):
        images = 500 * k
        row: dict[str, Any] = {"images": images, "step": k * 5, "images_per_second": 2410.0}
        row["seconds"] = images / {"ddpm-linear": 3100, "ddpm-cosine": 3060, "dcgan": 4400}[arm]
        if arm == "dcgan":
            row["loss/discriminator"] = 0.9 + 0.3 * np.exp(-k / 40) + 0.05 * rng.normal()
            row["loss/generator"] = 1.3 - 0.5 * np.exp(-k / 60) + 0.12 * rng.normal()
        else:
            level = 0.062 if arm == "ddpm-linear" else 0.081
            for number, (low, high) in enumerate(pairwise(("-inf", -6, -3, 0, 3, 6, "inf"))):
                row[f"loss_by_log_snr/{low} to {high}"] = level * 2.0 ** (number - 3)
            row["loss/denoiser"] = level + np.exp(-k / 9) + 0.004 * rng.normal()
        if k % 50 == 0:
            row["frechet_distance"] = FRECHET[arm] + 60 * np.exp(-k / 70)
        rows.append(row)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def results(seeds: tuple[int, ...] = (0,)) -> dict[str, Any]:
    arms = []
    for arm in ARMS:
        gan = arm == "dcgan"
        runs = [
            {
                "seed": seed,
                "directory": f"runs/{arm}/seed-{seed}",
                "images_seen": 200_064,
                "train_seconds": {"ddpm-linear": 64.4, "ddpm-cosine": 65.3, "dcgan": 45.5}[arm],
                "sample_seconds": 0.4 if gan else 7.9,
                "training_parameters": 905_218 if gan else 1_248_001,
                "images_per_second": 4400.0 if gan else 3100.0,
                "scores": {
                    "frechet_distance": estimate(FRECHET[arm] + 0.4 * seed, 1.1 if gan else 0.36),
                    "label_accuracy": estimate(ACCURACY[arm] - 0.004 * seed, 0.0095),
                },
                "grid_rows": [] if gan else CLASSES,
                "final_losses": {} if gan else {"loss/denoiser": 0.0813},
                "sampler_curve": []
                if gan
                else [
                    {
                        "steps": k,
                        "nfe": k,
                        "sample_seconds": k / 6,
                        "frechet_distance": estimate(FRECHET[arm] + 60 / k, 0.4),
                    }
                    for k in (5, 10, 25, 50)
                ],
                "warnings": ["the generator's loss rose over the last third"] if gan else [],
            }
            for seed in seeds
        ]
        schedule = {"ddpm-linear": "linear_beta", "ddpm-cosine": "cosine"}
        config = {"model.kind": "gan" if gan else "diffusion"}
        config |= {} if gan else {"model.schedule.kind": schedule[arm]}
        arms.append(
            {
                "name": arm,
                "parameters": 412_673 if gan else 1_248_001,
                "nfe": 1 if gan else 50,
                "config": config,
                "runs": runs,
            }
        )
    verdicts = [
        _verdict("frechet_distance", "ddpm-linear", "ddpm-cosine", 0.61, -0.32, 1.54, "not shown"),
        _verdict("frechet_distance", "ddpm-linear", "dcgan", -10.2, -12.5, -7.97, "better"),
        _verdict("frechet_distance", "ddpm-cosine", "dcgan", -10.8, -13.1, -8.58, "better"),
        _verdict(
            "label_accuracy", "ddpm-linear", "ddpm-cosine", -0.008, -0.035, 0.018, "not shown"
        ),
        _verdict("label_accuracy", "ddpm-linear", "dcgan", 0.072, 0.046, 0.099, "better"),
        _verdict("label_accuracy", "ddpm-cosine", "dcgan", 0.081, 0.054, 0.107, "better"),
    ]
    nfe = [("dcgan", 1, 18.36, True), ("ddpm-linear", 10, 14.0, True),
           ("ddpm-linear", 50, 8.127, False), ("ddpm-cosine", 50, 7.514, True)]  # fmt: skip
    points = [{"arm": a, "cost": c, "quality": q, "on_front": f} for a, c, q, f in nfe]
    return {
        "name": "demo",
        "title": "Diffusion and a GAN on handwritten digits",
        "description": "Two noise schedules of DDPM and a DCGAN, trained on the same 8×8 digits.",
        "created": "2025-03-14T15:09:26+00:00",
        "seconds": 214.8,
        "machine": {
            "cpu": "Example CPU @ 2.60 GHz", "cores": 2, "python": "3.11.8", "torch": "2.6.0",
            "sfumato": "0.1.0", "commit": "0123456789ab",
        },
        "data": {
            "source": "digits", "train": 1437, "held_out": 360, "image_shape": [1, 8, 8],
            "class_names": CLASSES, "digest": "5f1c" * 16, "grid": "real.png", "grid_rows": CLASSES,
        },
        "budget": {"images": 200_000},
        "factors": ["model"],
        "seeds": list(seeds),
        "protocol": {
            "num_images": 360, "reference": "held-out", "features": "classifier, 64 dimensions",
            "feature_digest": "9b1e77aa", "resize": "none", "quantization": "uint8",
            "weights": "average 0.999", "sampler": "ancestral", "guidance": 1.0,
            "precision": "float32",
        },
        "metrics": [
            {"key": "frechet_distance", "label": "Fréchet distance", "better": "lower",
             "floor": estimate(FLOOR, 0.21)},
            {"key": "label_accuracy", "label": "Label accuracy", "better": "higher",
             "floor": estimate(REAL_ACCURACY, 0.0073)},
        ],
        "arms": arms,
        "verdicts": verdicts,
        "preset": "cpu",
        "hours": 1.5,
        "shrunk": ["model.network.channels: 128 -> 32", "seeds: [0, 1, 2] -> [0, 1]"],
        "diverged": [{"arm": "ddpm-linear", "seed": 7, "reason": "training diverged again"}],
        "waiting": 1,
        "fronts": {"metric": "frechet_distance", "nfe": points, "sample_seconds": points},
        "compared": [
            {"a": "ddpm-linear", "b": "dcgan", "seed": 0, "pixels": estimate(0.93, 0.02, 256),
             "features": estimate(0.81, 0.03, 256), "picture": "compared.png"}
        ],
        "published": {
            "source": "a comparison of the literature",
            "claims": ["The cosine schedule is better in the end."],
            "figures": [
                {"what": "real images", "value": 3.5, "metric": "frechet_distance"},
                {"what": "DCGAN", "value": 22.5, "arm": "dcgan", "metric": "frechet_distance"},
                {"what": "loss", "value": 0.04, "arm": "ddpm-cosine", "metric": "loss/denoiser"},
                {"what": "another network", "value": 9.5, "metric": None},
            ],
        },
        "commands": ["pip install sfumato", "sfumato study demo --output studies/demo"],
    }  # fmt: skip


def _verdict(
    metric: str, a: str, b: str, difference: float, low: float, high: float, verdict: str
) -> dict[str, Any]:
    relation = (
        f"shown to be {verdict} than" if verdict != "not shown" else "not shown to differ from"
    )
    text = f"{a} is {relation} {b}: difference {difference:+.3g}, interval {low:.3g} to {high:.3g}."
    return {
        "metric": metric, "a": a, "b": b, "difference": difference, "low": low, "high": high,
        "verdict": verdict, "text": text,
    }  # fmt: skip


def write_study(directory: Path, seeds: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Write the whole directory and return the content of its results.json."""
    content = results(seeds)
    for arm in ARMS:
        for seed in seeds:
            write_run(directory / f"runs/{arm}/seed-{seed}", arm, seed)
    image_grid(digits(0.0, 7), columns=8, scale=4, padding=3).save(directory / "real.png")
    image_grid(digits(0.3, 8)[:64], columns=8).save(directory / "compared.png")
    for arm in ARMS:
        walks = image_grid(digits(0.2, 9)[:16], columns=8)
        walks.save(directory / f"runs/{arm}/seed-{seeds[0]}" / "walks.png")
    (directory / "results.json").write_text(json.dumps(content))
    return content
