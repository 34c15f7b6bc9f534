"""All samplers."""

from typing import Annotated

from pydantic import Field

from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler

AnySampler = Annotated[AncestralSampler | DDIMSampler, Field(discriminator="kind")]
