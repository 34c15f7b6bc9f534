"""The peers' own training loops, step by step, for benchmarks/time_to_quality.py.

Each trains with its project's defaults on the same images, 28x28 padded to 32x32 (both networks
halve the resolution several times), and samples with DDIM. Grey images are given as grey.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 32


class Peer(Protocol):
    """The interface of a project in this benchmark."""

    name: str
    batch_size: int

    def step(self) -> None:
        """One optimizer step, data loading included."""
        ...

    def sampled(self) -> nn.Module:
        """The network that samples are drawn with: the averaged one."""
        ...

    def sample(self, count: int, steps: int) -> Tensor:
        """`count` images in [0, 1], [count, C, 32, 32]."""
        ...


def padded(images: np.ndarray) -> np.ndarray:
    """[N, C, h, h] to [N, C, 32, 32], zeros around."""
    pad = (SIZE - images.shape[-1]) // 2
    return np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))


class DenoisingDiffusionPytorch:
    """denoising-diffusion-pytorch: `Trainer` on `GaussianDiffusion(Unet(64))`.

    Defaults of the library: v-prediction, sigmoid schedule, batch 16, Adam 1e-4, EMA 0.995 every
    10 steps, horizontal flips, float32.
    """

    name = "denoising-diffusion-pytorch"
    batch_size = 16

    def __init__(self, folder: Path, sampling_steps: int, channels: int) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

        network = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=channels)
        diffusion = GaussianDiffusion(
            network, image_size=SIZE, timesteps=1000, sampling_timesteps=sampling_steps
        )
        self.trainer = Trainer(
            diffusion,
            str(folder),
            train_batch_size=self.batch_size,
            train_lr=1e-4,
            train_num_steps=0,
            save_and_sample_every=10**9,
            calculate_fid=False,
            results_folder=str(folder.parent / "peer-results"),
        )

    def step(self) -> None:
        """One call of its loop, with one step to do."""
        self.trainer.train_num_steps = self.trainer.step + 1
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.trainer.train()

    def sampled(self) -> nn.Module:
        """Its moving average."""
        return self.trainer.ema.ema_model  # type: ignore[no-any-return]

    @torch.inference_mode()
    def sample(self, count: int, steps: int) -> Tensor:
        """DDIM, as its `sampling_timesteps` does."""
        model = self.trainer.ema.ema_model.eval()
        with contextlib.redirect_stderr(io.StringIO()):
            return model.sample(batch_size=count).clamp(0, 1)  # type: ignore[no-any-return]


class DiffusersExample:
    """diffusers: its unconditional training example with its default options and `--use_ema`.

    UNet2DModel of six levels (128, 128, 256, 256, 512, 512) with attention at the fifth, eps,
    linear betas, batch 16, AdamW 1e-4 (0.95, 0.999; weight decay 1e-6), warm-up of 500 steps,
    gradients clipped at 1, EMA with power 3/4, horizontal flips off, float32.
    """

    name = "diffusers"
    batch_size = 16

    def __init__(self, images: np.ndarray) -> None:
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        torch.manual_seed(0)
        down = ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D")
        up = ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4
        self.channels = images.shape[1]
        self.model = UNet2DModel(
            sample_size=SIZE,
            in_channels=images.shape[1],
            out_channels=images.shape[1],
            layers_per_block=2,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            down_block_types=down,
            up_block_types=up,
        )
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.warmup = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / 500)
        )
        self.ema = EMAModel(
            self.model.parameters(),
            decay=0.9999,
            use_ema_warmup=True,
            inv_gamma=1.0,
            power=3 / 4,
        )
        data = torch.utils.data.TensorDataset(torch.from_numpy(images))
        self.loader = torch.utils.data.DataLoader(data, self.batch_size, shuffle=True)
        self.batches = self._endless()

    def _endless(self) -> Iterator[Tensor]:
        while True:
            for (images,) in self.loader:
                yield images.float() / 127.5 - 1

    def step(self) -> None:
        """One step of the example's loop."""
        x_0 = next(self.batches)
        noise = torch.randn_like(x_0)
        t = torch.randint(0, 1000, (len(x_0),))
        predicted = self.model(self.scheduler.add_noise(x_0, noise, t), t).sample
        F.mse_loss(predicted, noise).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.warmup.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())

    def sampled(self) -> nn.Module:
        """A copy of the network with the averaged weights."""
        import copy

        model = copy.deepcopy(self.model)
        self.ema.copy_to(model.parameters())
        return model

    @torch.inference_mode()
    def sample(self, count: int, steps: int) -> Tensor:
        """DDIM on the network as it is (its weights are loaded by the caller)."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        x = torch.randn(count, self.channels, SIZE, SIZE)
        for t in scheduler.timesteps:
            x = scheduler.step(self.model.eval()(x, t).sample, t, x).prev_sample
        return ((x + 1) / 2).clamp(0, 1)
