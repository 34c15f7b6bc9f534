"""Studies that take seconds."""

from pathlib import Path

TINY = """
factors = ["model", "training.learning_rate", "training.batch_size", "training.optimizer",
    "training.clip_gradient", "training.warmup_images"]
budget = { images = 64 }
seeds = [0, 1]

[common]
data = { limit = 400 }

[common.training]
log_images = 32
sample_images = 32
checkpoint_images = 32
tensorboard = false

[evaluation]
num_images = 60
memorization = false

[arms.ddpm]
recipe = "digits-ddpm"
model.network = { channels = 8, blocks = 1, attention = [] }
model.sampler = { kind = "ddim", steps = 2 }

[arms.dcgan]
recipe = "digits-dcgan"
model.network = { channels = 8 }
"""


def write(folder: Path, extra: str = "", text: str = TINY, name: str = "tiny") -> str:
    """A study file; returns its path."""
    path = folder / f"{name}.toml"
    path.write_text(text + extra)
    return str(path)
