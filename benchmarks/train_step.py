"""A training step of other projects' networks and of Sfumato's, in turns.

    python benchmarks/train_step.py --only unet-28
    python benchmarks/train_step.py --group tried

The peer's step is what its example does by default: float32, AdamW, a moving average parameter by
parameter. Ours is that of the trainer, with all it draws and counts, under several plans.
"""

from collections.abc import Callable

import torch
from peers import Contender, Pair, compare, parameters
from torch.nn import functional as F

from sfumato.core.images import Batch
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.speed.plan import Plan
from sfumato.training.optimizer import AdamW
from sfumato.training.trainer import Trainer
from sfumato.training.training_config import PLAN_KEYS, TrainingConfig


def peer_step(pair: Pair, images: torch.Tensor) -> tuple[Callable[[], None], int]:
    """The step of a plain training script."""
    network = pair.peer().train()
    average = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

    def step() -> None:
        eps, t = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        a = alpha_bar[t][:, None, None, None]
        loss = F.mse_loss(network(a.sqrt() * images + (1 - a).sqrt() * eps, t), eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, p in zip(average, network.parameters(), strict=True):
                kept.mul_(0.9999).add_(p, alpha=1e-4)

    return step, parameters(network)


def our_step(pair: Pair, images: torch.Tensor, plan: Plan) -> tuple[Callable[[], None], int]:
    """The trainer's step under a plan."""
    config = TrainingConfig(
        batch_size=pair.batch,
        budget_steps=1000,
        learning_rate=1e-4,
        optimizer=AdamW(),
        **{key: getattr(plan, key) for key in PLAN_KEYS},
    )
    model = DiffusionConfig(network=pair.ours).build(pair.shape, 0)
    trainer = Trainer(config, model, torch.device("cpu"))
    return lambda: trainer.step(Batch(images)), parameters(model)


def build(pair: Pair, contender: Contender) -> tuple[Callable[[], None], int]:
    """The peer, or ours under a plan."""
    images = torch.rand(pair.batch, *pair.shape) * 2 - 1
    plan = contender.plan
    return peer_step(pair, images) if plan is None else our_step(pair, images, plan)


if __name__ == "__main__":
    compare(__file__, __doc__, build, can_freeze=False)
