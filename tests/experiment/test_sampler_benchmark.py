"""The benchmark of samplers on a tiny run: all are there, and closer with more evaluations."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from sfumato.experiment.training_run import train
from support.experiments import DIFFUSION, experiment

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "samplers.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("samplers_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_all_samplers_are_compared(benchmark: ModuleType, tmp_path: Path) -> None:
    run_dir = train(experiment(DIFFUSION, sample_images=0), tmp_path / "run").directory
    arguments = [
        "--error-images",
        "4",
        "--nfe",
        "5",
        "50",
        "--reference-steps",
        "200",
        "--no-frechet",
    ]
    stem = tmp_path / "out" / "samplers"
    benchmark.main([str(run_dir), *arguments, "--output", str(stem)])
    rows = json.loads(stem.with_suffix(".json").read_text())["rows"]
    assert {row["sampler"] for row in rows} == {"auto", *benchmark.SAMPLERS}
    assert all(row["nfe"] <= row["budget"] for row in rows)
    errors = {(r["sampler"], r["grid"], r["budget"]): r.get("error") for r in rows}
    for (name, grid, budget), error in errors.items():
        if name in benchmark.STOCHASTIC:
            assert error is None
        elif budget == 50 and (name, grid, 5) in errors:
            assert error <= errors[name, grid, 5] < 2  # images of a tiny run are black and white
    table = stem.with_suffix(".md").read_text()
    assert "| dpm++ 3m | log_snr |" in table
    assert stem.with_suffix(".png").exists()
