"""How a model is trained, as config."""

from dataclasses import replace
from typing import Annotated, Literal

from sfumato.core.config import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SettledAtStart,
    component,
    decides,
    may_change,
)
from sfumato.speed.plan import REFERENCE, Plan
from sfumato.training.averages import AverageProfile, ExponentialAverage
from sfumato.training.optimizer import Adam, ConstantRate, Optimizer, RateSchedule


@component
class TrainingConfig:
    """How to train.

    Args:
        seed: of the initialization, the order of the images and the noise.
        batch_size: images in an optimizer step, over all processes.
        micro_batch_size: images per forward pass in each process; the gradients of micro-batches
            are accumulated. None: the whole share of the process.
        budget_images, budget_steps, budget_seconds: where to stop; exactly one is given.
        learning_rate: after the warm-up.
        optimizer: one is built for each module that is trained.
        rate: how the learning rate changes.
        warmup_images: the learning rate rises linearly from 0 over that many images.
        decay_images: images seen at the end of `rate`. None: the budget of the first start, which
            is recorded, so that extending the budget does not stretch the decay.
        clip_gradient: largest norm of the gradient of a module; None: no clipping.
        averages: weight averages kept during training; the first is the one sampled with.
        performance: "auto" chooses by timing, at the start of a run, those of the next four that
            are "auto". "reference" overrules all four: float32, contiguous, eager, without own
            kernels, fused optimizers or TF32.
        precision: of the forward and backward pass; weights stay float32. float16 scales the loss.
        layout: of images and weights in memory.
        kernels: own compiled kernels on a CPU; they need a C++ compiler.
        compile: train networks through torch.compile; for a CPU it needs a C++ compiler. "auto" is
            false.
        recompute_activations: keep only the inputs of blocks for the backward pass: less memory,
            more time, the same results.
        shard: spread a diffusion model over the processes (FSDP2); no effect with a single process.
        log_images, sample_images, checkpoint_images: images between two rows of the log, pictures
            of samples (0: none), checkpoints.
        score_images: images between measurements of the Fréchet distance, by the protocol of
            `evaluation` (0: none). The checkpoint with the smallest is kept.
        snapshot_images: images between snapshots of the power averages, from which averages of
            other widths can be reconstructed (0: none).
        keep_checkpoints: number of checkpoints to keep besides the best.
        tensorboard: write the log for TensorBoard too.
        wandb: send the log to Weights & Biases.
    """

    seed: Annotated[int, may_change("arms")] = 0
    batch_size: Annotated[PositiveInt, decides("speed")] = 128
    micro_batch_size: Annotated[PositiveInt | None, decides("speed")] = None
    budget_images: Annotated[PositiveInt | None, may_change("resume")] = None
    budget_steps: Annotated[PositiveInt | None, may_change("resume")] = None
    budget_seconds: Annotated[PositiveFloat | None, may_change("resume")] = None
    learning_rate: PositiveFloat = 2e-4
    optimizer: Optimizer = Adam()
    rate: RateSchedule = ConstantRate()
    warmup_images: NonNegativeInt = 0
    decay_images: Annotated[int | None, SettledAtStart(None)] = None
    clip_gradient: float | None = None
    averages: tuple[AverageProfile, ...] = (ExponentialAverage(),)
    performance: Annotated[Literal["auto", "reference"], may_change("after_training")] = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], SettledAtStart("auto"), decides("speed")
    ] = "auto"
    layout: Annotated[
        Literal["auto", "contiguous", "channels_last"], SettledAtStart("auto"), decides("speed")
    ] = "auto"
    kernels: Annotated[Literal["auto"] | bool, SettledAtStart("auto"), decides("speed")] = "auto"
    compile: Annotated[Literal["auto"] | bool, SettledAtStart("auto"), decides("speed")] = "auto"
    recompute_activations: Annotated[bool, may_change("resume"), decides("speed")] = False
    shard: Annotated[bool, may_change("resume"), decides("speed")] = False
    log_images: Annotated[PositiveInt, may_change("resume")] = 5_000
    sample_images: Annotated[NonNegativeInt, may_change("resume")] = 100_000
    checkpoint_images: Annotated[PositiveInt, may_change("resume")] = 100_000
    score_images: Annotated[NonNegativeInt, may_change("resume")] = 0
    snapshot_images: Annotated[NonNegativeInt, may_change("resume")] = 0
    keep_checkpoints: Annotated[PositiveInt, may_change("resume")] = 2
    tensorboard: Annotated[bool, may_change("resume")] = True
    wandb: Annotated[bool, may_change("resume")] = False

    def __post_init__(self) -> None:
        budgets = (self.budget_images, self.budget_steps, self.budget_seconds)
        if sum(budget is not None for budget in budgets) != 1:
            raise ValueError(
                "training needs exactly one budget: budget_images, budget_steps or "
                f"budget_seconds; got {list(budgets)}; on the command line, "
                "training.budget_seconds= (without a value) takes one out"
            )
        if self.snapshot_images and len([a for a in self.averages if a.kind == "power"]) < 2:
            raise ValueError(
                "training.snapshot_images needs two power averages to reconstruct others from; "
                "add { kind = 'power', relative_std = 0.05 } and 0.10 to averages"
            )
        if self.shard and self.precision == "float16":
            raise ValueError("training.shard and float16 do not go together; use bfloat16")

    @property
    def budgeted_steps(self) -> int | None:
        """Steps of a budget in steps or images, the last one whole; None of one in seconds."""
        if self.budget_images is not None:
            return -(-self.budget_images // self.batch_size)
        return self.budget_steps


PLAN_KEYS = ("precision", "layout", "kernels", "compile")
"""The fields of a config that are the fields of its plan, where they are not "auto"."""


def fixed_plan(config: TrainingConfig) -> Plan | None:
    """The plan that a config names in full; None where something is left to be chosen."""
    if config.performance == "reference":
        return REFERENCE
    if any(getattr(config, key) == "auto" for key in PLAN_KEYS):
        return None
    return plan_of(config)


def plan_of(config: TrainingConfig) -> Plan:
    """The plan of a config; what is not chosen yet is that of the reference."""
    if config.performance == "reference":
        return REFERENCE
    given = {key: value for key in PLAN_KEYS if (value := getattr(config, key)) != "auto"}
    return replace(REFERENCE, **given)
