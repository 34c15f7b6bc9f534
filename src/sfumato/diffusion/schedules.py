"""All noise schedules."""

from typing import Annotated

from pydantic import Field

from sfumato.diffusion.continuous_schedules import (
    ContinuousCosineSchedule,
    EDMSchedule,
    RectifiedFlowSchedule,
)
from sfumato.diffusion.discrete_schedules import (
    CosineSchedule,
    LinearBetaSchedule,
    ScaledLinearSchedule,
    SigmoidSchedule,
    ZeroTerminalSnrSchedule,
)

Schedule = Annotated[
    LinearBetaSchedule
    | ScaledLinearSchedule
    | CosineSchedule
    | SigmoidSchedule
    | ZeroTerminalSnrSchedule
    | EDMSchedule
    | RectifiedFlowSchedule
    | ContinuousCosineSchedule,
    Field(discriminator="kind"),
]
