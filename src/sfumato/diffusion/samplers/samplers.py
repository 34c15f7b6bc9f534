"""All samplers."""

from typing import Annotated

from pydantic import Field

from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.samplers.auto import AutoSampler
from sfumato.diffusion.samplers.deis import DEISSampler
from sfumato.diffusion.samplers.dpm_solver import (
    DPMSolverMultistepSampler,
    DPMSolverSinglestepSampler,
)
from sfumato.diffusion.samplers.heun import EulerSampler, HeunSampler
from sfumato.diffusion.samplers.ipndm import IPNDMSampler, PNDMSampler
from sfumato.diffusion.samplers.unipc import UniPCSampler

AnySampler = Annotated[
    AutoSampler
    | AncestralSampler
    | DDIMSampler
    | EulerSampler
    | HeunSampler
    | DPMSolverMultistepSampler
    | DPMSolverSinglestepSampler
    | UniPCSampler
    | DEISSampler
    | IPNDMSampler
    | PNDMSampler,
    Field(discriminator="kind"),
]
