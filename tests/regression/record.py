"""Records what the package computes, to compare two versions of it bit by bit.

    python tests/regression/record.py OUT.json
    python tests/regression/record.py OUT.json --against tests/regression/before.json

It uses only the command line and the files of run directories, so that one script measures every
version; PYTHONPATH chooses which. Trainings are tiny, on one thread and by the reference plan, so
that nothing depends on timing. Two records agree on one machine with the same libraries only.

Numbers, names and SHA-256 digests must be equal. Protocols, warnings and other wording may change:
differences there are counted, printed with --texts, and no failure.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

HERE = Path(__file__).parent
NUM_SAMPLES = 20
SAMPLERS = {
    "ancestral": "{kind='ancestral', steps=10}",
    "ancestral-large": "{kind='ancestral', steps=10, variance='large'}",
    "ddim": "{kind='ddim', steps=10}",
    "ddim-eta": "{kind='ddim', steps=10, eta=0.5, grid.kind='trailing'}",
    "euler": "{kind='euler', steps=10}",
    "euler-churn": "{kind='euler', steps=10, churn.amount=4, churn.noise_scale=1.01}",
    "heun": "{kind='heun', steps=6}",
    "heun-churn": "{kind='heun', steps=6, churn.amount=4, churn.sigma_max=50}",
    "dpm-multistep": "{kind='dpm_solver_multistep', steps=8}",
    "dpm-multistep-3": "{kind='dpm_solver_multistep', steps=8, order=3}",
    "dpm-stochastic": "{kind='dpm_solver_multistep', steps=8, stochastic=true}",
    "dpm-singlestep": "{kind='dpm_solver_singlestep', steps=4, order=3}",
    "deis": "{kind='deis', steps=8}",
    "ipndm": "{kind='ipndm', steps=8}",
    "pndm": "{kind='pndm', steps=8}",
    "unipc": "{kind='unipc', steps=8, order=3}",
    "auto": "{kind='auto', steps=8}",
    "clipped": "{kind='heun', steps=6, clip.kind='range'}",
    "thresholded": "{kind='auto', steps=5, clip.kind='dynamic', clip.quantile=0.9}",
}
"""Values of model.sampler, by the name of the configuration."""
GUIDED: dict[str, list[str]] = {
    "guided": ["model.sampler={kind='ddim',steps=8}", "model.guidance.scale=3"],
    "guided-interval": [
        "model.sampler={kind='heun',steps=6}",
        "model.guidance={kind='classifier_free',scale=2.5,interval=[0.1,5.0]}",
    ],
}
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "eps": ("diffusion.toml", ["model.parameterization={kind='eps'}"]),
    "improved": (
        "diffusion.toml",
        [
            "model.schedule={kind='cosine'}",
            "model.learned_variance=true",
            "model.loss={kind='hybrid'}",
            "model.sampler={kind='ancestral',steps=10,variance='learned'}",
        ],
    ),
    "edm": (
        "diffusion.toml",
        [
            "model.schedule={kind='edm'}",
            "model.parameterization={kind='edm'}",
            "model.loss={kind='simple',weighting={kind='edm'}}",
            "model.time_sampling={kind='log_normal_sigma'}",
            "model.sampler={kind='heun',steps=6}",
        ],
    ),
    "stylegan2": (
        "digits-stylegan2",
        [
            "model.network={kind='stylegan2',latent_dim=8,style_dim=8,mapping_layers=2,"
            "channel_base=64,channel_max=8}",
        ],
    ),
}
"""More trainings: a recipe and its overrides."""
SHORT = [
    "training.budget_images=640",
    "training.performance=reference",
    "training.log_images=320",
    "training.sample_images=320",
    "training.checkpoint_images=320",
    "training.tensorboard=false",
]
CLOCKED = re.compile(
    r".*seconds.*|images_per_second|created|machine|environment|memory|commands?|hours"
)
"""Keys of what the clock, the machine or the folder decides."""
WORDED = frozenset({"protocol", "warnings", "notes", "label", "title", "description", "reason"})
"""Keys of wording, and of digests that are made of wording."""


class CommandLine:
    """The command line of the package, in a folder with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SFUMATO_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        """A process of `sfumato ARGUMENTS`."""
        command = [sys.executable, "-m", "sfumato", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: object) -> str:
        """What `sfumato ARGUMENTS` prints.

        Raises:
            RuntimeError: it fails.
        """
        process = self.start(*arguments)
        printed, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"sfumato {' '.join(map(str, arguments))}: {errors[-2000:]}")
        return printed

    def kill_half_way(self, run_dir: Path, position: int, *arguments: object) -> None:
        """Start a training and kill it once the checkpoint at `position` images exists."""
        process = self.start(*arguments)
        checkpoint = run_dir / "checkpoints" / f"{position:012d}.json"
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the training ended with {process.returncode} before it was killed")


def sampler_overrides(name: str) -> list[str]:
    """Arguments of `sfumato sample` for a configuration of SAMPLERS or GUIDED."""
    return GUIDED.get(name) or [f"model.sampler={SAMPLERS[name]}"]


def digest(*arrays: np.ndarray) -> str:
    """Of the types, shapes and bytes of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def tensors_digest(path: Path) -> str:
    """Of the names and values in a safetensors file, not of its metadata."""
    found = hashlib.sha256()
    with safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys()):
            found.update(f"{name} {digest(file.get_tensor(name))}\n".encode())
    return found.hexdigest()


def npz_digest(path: Path) -> dict[str, str]:
    """Of each array of an .npz file."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: digest(arrays[name]) for name in sorted(arrays.files)}


def pictures(folder: Path) -> dict[str, str]:
    """Digests of the pixels of the PNG files below a folder."""
    found = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as picture:
            found[str(path.relative_to(folder))] = digest(np.asarray(picture))
    return found


def without_times(value: Any, folder: Path) -> Any:
    """A JSON value without clocked keys, and with the temporary folder's path taken out."""
    if isinstance(value, Mapping):
        return {
            key: without_times(part, folder)
            for key, part in value.items()
            if not CLOCKED.fullmatch(key)
        }
    if isinstance(value, list):
        return [without_times(part, folder) for part in value]
    return value.replace(f"{folder}/", "") if isinstance(value, str) else value


def rows(path: Path, folder: Path) -> list[Any]:
    """The rows of a log, without times and rates."""
    return [without_times(json.loads(line), folder) for line in path.read_text().splitlines()]


def read(path: Path, folder: Path) -> Any:
    """A JSON file, without times."""
    return without_times(json.loads(path.read_text()), folder)


def run_record(run_dir: Path, folder: Path) -> dict[str, Any]:
    """What a training left behind."""
    return {
        "config": read(run_dir / "config.json", folder),
        "data": read(run_dir / "data.json", folder),
        "summary": read(run_dir / "summary.json", folder),
        "metrics": rows(run_dir / "metrics.jsonl", folder),
        "final": tensors_digest(run_dir / "final.safetensors"),
        "pictures": pictures(run_dir / "samples"),
        "files": sorted(
            str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()
        ),
    }


def trainings(shell: CommandLine) -> Iterator[tuple[str, Any]]:
    """Runs, uninterrupted and resumed after a kill."""
    folder = shell.folder
    for name in ("diffusion", "gan"):
        run_dir, killed = folder / name, folder / f"{name}-killed"
        recipe = HERE / f"{name}.toml"
        shell.run("train", recipe, "-o", run_dir)
        whole = run_record(run_dir, folder)
        yield name, whole
        shell.kill_half_way(killed, 1600, "train", recipe, "-o", killed)
        shell.run("train", recipe, "-o", killed, "--resume")
        resumed = run_record(killed, folder)
        same = ("final", "metrics", "pictures")
        yield f"{name}-resumed", {key: resumed[key] == whole[key] for key in same}
    for name, (recipe_name, overrides) in VARIANTS.items():
        path = HERE / recipe_name
        changes = [*SHORT, "training.score_images=0", *overrides]
        shell.run("train", path if path.exists() else recipe_name, "-o", folder / name, *changes)
        found = run_record(folder / name, folder)
        yield name, found | {"samples": samples(shell, name)}


def samples(shell: CommandLine, run: str, *arguments: str) -> dict[str, str]:
    """Digests of samples of a run."""
    output = shell.folder / "samples.npz"
    shell.run("sample", shell.folder / run, "-n", NUM_SAMPLES, "-o", output, *arguments)
    found = npz_digest(output)
    output.unlink()
    return found


def evaluations(shell: CommandLine) -> Iterator[tuple[str, Any]]:
    """`sfumato evaluate` of a run, of two sets, and of real images over N; likelihoods."""
    folder = shell.folder
    network = ["--features", "efficientnet-lite0"]
    every = 'evaluation.metrics=["frechet_distance","kernel_distance","precision","recall",' \
        '"density","coverage","label_accuracy"]'  # fmt: skip
    fewer = "frechet_distance,kernel_distance,precision,recall"
    few = "evaluation.num_images=100"
    for name, seed in (("a", 0), ("b", 5000)):
        arguments = ("-n", 120, "--seed", seed, "-o", folder / f"{name}.npz")
        shell.run("sample", folder / "diffusion", *arguments)
    run, gan = folder / "diffusion", folder / "gan"
    commands: dict[str, list[object]] = {
        "run": [run],
        "run-every-metric": [run, every, "evaluation.num_images=150"],
        "run-sampler": [gan, "evaluation.seed=1"],
        "run-network": [run, *network, "--metrics", fewer, few],
        "npz-npz": ["a.npz", "b.npz", *network, few],
        "run-set": [run, "digits", few],
        "run-run": [run, gan, *network, few],
        "set-set": ["digits:train", "digits:held-out", *network, few],
        "npz-set": ["a.npz", "digits", few],
        "floor-curve": ["digits", "--floor-curve"],
        "floor-curve-network": ["digits", "--floor-curve", *network, "data.limit=400"],
        "nll": [run, "--metrics", "nll", "--nll-images", 4, "--nll-tolerance", "1e-2"],
    }
    for name, arguments in commands.items():
        printed = shell.run("evaluate", *arguments, "--json")
        yield name, without_times(json.loads(printed), folder)
        if name == "run":
            yield "run-file", read(run / "evaluation.json", folder)
            yield "run-scores", tensors_digest(run / "evaluation.safetensors")
            with Image.open(run / "grid.png") as picture:
                yield "run-grid", digest(np.asarray(picture))


def record(folder: Path, say: Any) -> dict[str, Any]:
    """Everything, as plain values."""
    shell = CommandLine(folder)
    found: dict[str, Any] = {"trainings": {}, "samplers": {}, "evaluate": {}}
    for name, value in trainings(shell):
        say(f"trained {name}")
        found["trainings"][name] = value
    for name in (*SAMPLERS, *GUIDED):
        found["samplers"][name] = samples(shell, "diffusion", *sampler_overrides(name))
    found["samplers"]["gan"] = samples(shell, "gan", "--classes", "3", "7")
    weak = folder / "diffusion" / "checkpoints"
    weak_file = min(weak.glob("*.safetensors"))
    found["samplers"]["autoguided"] = samples(shell, "diffusion", "--autoguide", str(weak_file))
    say("sampled")
    for name, value in evaluations(shell):
        say(f"evaluated {name}")
        found["evaluate"][name] = value
    study = folder / "study"
    shell.run("study", HERE / "study.toml", "-o", study)
    found["study"] = {
        "results": read(study / "results.json", folder),
        "finals": {
            str(path.relative_to(study)): tensors_digest(path)
            for path in sorted(study.rglob("final.safetensors"))
        },
        "pictures": pictures(study / "runs"),
    }
    say("studied")
    shell.run("report", study)
    shell.run("report", folder / "diffusion")
    parts = {f"{room}/{name}": value for room, of in found.items() for name, value in of.items()}
    return {"machine": machine(), **parts}


def machine() -> dict[str, str]:
    """What bit-identical results depend on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        model = names[0] if names else model
    libraries = ("torch", "numpy", "scipy", "scikit-learn", "Pillow", "timm")
    return {
        "processor": model,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested values, by path."""
    parts: Any = None
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    if not parts:
        yield at, value
        return
    for key, part in parts:
        yield from flat(part, f"{at}/{key}" if at else str(key))


def save(found: Mapping[str, Any], path: Path) -> None:
    """Write a record as JSON, one part per line."""
    lines = [f"{json.dumps(key)}: {json.dumps(part)}" for key, part in found.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def separated(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leaves that must be equal, and leaves of wording, each by path; the machine is neither."""
    results, texts = {}, {}
    for path, value in flat({key: part for key, part in found.items() if key != "machine"}):
        worded = bool(WORDED & set(path.split("/")))
        (texts if worded else results)[path] = value
    return results, texts


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each leaf that differs, was lost or is new."""
    lines = []
    for path in sorted({*before, *after}):
        if path not in after:
            lines.append(f"{path}: lost {before[path]!r}")
        elif path not in before:
            lines.append(f"{path}: new {after[path]!r}")
        elif before[path] != after[path]:
            lines.append(f"{path}: {before[path]!r} -> {after[path]!r}")
    return lines


def main() -> int:
    """Record, and compare where asked."""
    parser = argparse.ArgumentParser(description="Record results, and compare with a record.")
    parser.add_argument("output", type=Path, help="the record to write")
    parser.add_argument("--against", type=Path, help="a record to compare with; 1 if they differ")
    parser.add_argument(
        "--reuse", action="store_true", help="compare the record in OUTPUT, without recording again"
    )
    parser.add_argument("--texts", action="store_true", help="print differences of wording too")
    options = parser.parse_args()
    if not options.reuse:
        with tempfile.TemporaryDirectory() as folder:
            found = record(Path(folder).resolve(), lambda text: print(text, file=sys.stderr))
        save(found, options.output)
    if options.against is None:
        return 0
    after = json.loads(options.output.read_text())
    before = json.loads(options.against.read_text())
    if before["machine"] != after["machine"]:
        print(f"other machine or libraries: {before['machine']}, now {after['machine']}")
    (results_before, texts_before), (results, texts) = separated(before), separated(after)
    changed = differences(results_before, results)
    worded = differences(texts_before, texts)
    print(*changed, *(worded if options.texts else ()), sep="\n")
    print(f"{len(changed)} results and {len(worded)} texts differ")
    return 1 if changed else 0


if __name__ == "__main__":
    raise SystemExit(main())
