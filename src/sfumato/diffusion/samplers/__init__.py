"""Samplers: from noise to images in a number of steps.

Along the probability flow, with rho = sigma / alpha and lambda = -log rho,

    d(x / alpha) = eps d rho        or, the same,        d(x / sigma) = x_0 d(e^lambda),

where x_0 and eps are the denoiser's. A step from t to s holds one of them fixed over the step,
which gives DDIM either way, or extrapolates how it will change:

    ancestral       DDPM and DDIM: first order, some or all of the noise redrawn
    heun            evaluates again at the end of the step (EDM)
    ipndm           extrapolates eps from earlier steps as if all were equal (PNDM, iPNDM)
    deis            extrapolates eps by a polynomial through the earlier steps
    dpm_solver      extrapolates x_0 in lambda, or evaluates in between (DPM-Solver++)
    unipc           the same, and corrects the last step by the newest x_0
    auto            one of these, chosen by benchmark

`sampler` is what they share; `AnySampler` below lists all.
"""

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
