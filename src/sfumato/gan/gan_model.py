"""A GAN as a generative model of two and more phases."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.augment.discriminator import AnyDiscriminatorAugmentation
from sfumato.core import distributed
from sfumato.core.config import NonNegativeFloat, PositiveFloat, PositiveInt, component
from sfumato.core.generative_model import GenerativeModel, OnStep, Phase
from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.gan.combinations import check_combination
from sfumato.gan.losses import GANLoss, Logits, NonSaturatingLoss, logits_and_accuracy
from sfumato.gan.regularizers import (
    R1,
    R2,
    DiscriminatorBatch,
    DiscriminatorRegularizer,
    PathLength,
    Regularizer,
    path_lengths,
)
from sfumato.gan.unrolled import GradientMoments, State, Unrolling, judged_by
from sfumato.networks import NetworkPair
from sfumato.networks.adversarial import StyledGenerator
from sfumato.networks.dcgan import DCGANConfig


@component
class GANConfig:
    """A generator and a discriminator that play against each other.

    Args:
        network: builds the pair.
        loss: what they minimize.
        regularizers: penalties on gradients: r1, r2, gradient_penalty, path_length.
        discriminator_steps: of the discriminator for each step of the generator, every one on a
            batch of its own.
        discriminator_rate: its learning rate, in multiples of that of the generator (two time
            scales, Heusel et al. 2017).
        unrolled: the generator looks some steps of the discriminator ahead.
        input_noise: standard deviation of Gaussian noise added to every image the discriminator
            sees, in the units of images in [-1, 1] (Arjovsky & Bottou 2017, section 3).
        input_noise_images: images over which that noise falls linearly to 0; None: it stays.
        augment: random changes of every image the discriminator sees, for small data sets.
    """

    kind: Literal["gan"] = "gan"
    network: NetworkPair = DCGANConfig()
    loss: GANLoss = NonSaturatingLoss()
    regularizers: tuple[Regularizer, ...] = ()
    discriminator_steps: PositiveInt = 1
    discriminator_rate: PositiveFloat = 1.0
    unrolled: Unrolling | None = None
    input_noise: NonNegativeFloat = 0.0
    input_noise_images: PositiveInt | None = None
    augment: AnyDiscriminatorAugmentation | None = None

    def __post_init__(self) -> None:
        if self.input_noise_images is not None and self.input_noise == 0:
            raise ValueError(
                "input_noise_images sets when input_noise has fallen to 0, and it is 0 from the "
                "start; set input_noise, for example to 0.1"
            )
        check_combination(self.network, self.loss, self.regularizers, self.unrolled, self.augment)

    def build(self, image_shape: Shape, num_classes: int) -> "GAN":
        """The model for images of `image_shape`; `num_classes` 0 makes it unconditional."""
        return GAN(self, image_shape, num_classes)


class GAN(GenerativeModel):
    """Generator, discriminator, and the phases that train them in turn."""

    nfe = 1
    path_length_mean: Tensor

    def __init__(self, config: GANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.loss = config.loss
        self.image_shape = image_shape
        self.num_classes = num_classes
        pair: tuple[nn.Module, nn.Module] = config.network.build(image_shape, num_classes)
        self.generator, self.discriminator = pair
        self.latent_dim = config.network.latent_dim
        self.augment = None if config.augment is None else config.augment.build()
        self._observations: dict[str, Tensor] = {}
        unrolled = config.unrolled
        self.moments = (
            None
            if unrolled is None or unrolled.betas is None
            else GradientMoments(self.discriminator, unrolled.betas)
        )
        self.penalties: list[DiscriminatorRegularizer] = []
        for regularizer in config.regularizers:
            if isinstance(regularizer, PathLength):
                self.register_buffer("path_length_mean", torch.zeros(()))
            else:
                self.penalties.append(regularizer)

    @property
    def sampled_module(self) -> nn.Module:
        """The generator."""
        return self.generator

    def phases(self) -> Sequence[Phase]:
        """A step of the discriminator, then one of the generator, each with its rare penalties."""
        config, rate = self.config, self.config.discriminator_rate
        paths = [r for r in config.regularizers if isinstance(r, PathLength)]
        return [
            Phase(
                "discriminator",
                self.discriminator,
                self.discriminator_loss,
                rate=rate,
                double_backward=any(r.every == 1 for r in self.penalties),
                after=self._after_discriminator,
            ),
            *(
                Phase(
                    r.kind,
                    self.discriminator,
                    partial(self.penalty, r),
                    every=r.every,
                    rate=rate,
                    double_backward=True,
                )
                for r in self.penalties
                if r.every > 1
            ),
            Phase(
                "generator",
                self.generator,
                self.generator_loss,
                every=config.discriminator_steps,
                lazy=False,
                double_backward=config.unrolled is not None,
            ),
            *(
                Phase(
                    r.kind,
                    self.generator,
                    partial(self.path_length_loss, r),
                    every=r.every,
                    double_backward=True,
                )
                for r in paths
            ),
        ]

    def discriminator_loss(self, batch: Batch, noise: RandomStream) -> Float[Tensor, " B"]:
        """The real images against as many generated ones of the same classes."""
        always = [r for r in self.penalties if r.every == 1]
        judged = self._discriminator_batch(batch, noise, always)
        self._observe(judged.real_logits.detach(), judged.fake_logits.detach())
        losses = self.loss.discriminator(judged.real_logits, judged.fake_logits)
        for regularizer in always:
            losses = losses + regularizer.penalty(judged, noise)
        return losses

    def penalty(
        self, regularizer: DiscriminatorRegularizer, batch: Batch, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        """A penalty on the discriminator by itself."""
        return regularizer.penalty(self._discriminator_batch(batch, noise, [regularizer]), noise)

    def generator_loss(self, batch: Batch, noise: RandomStream) -> Float[Tensor, " B"]:
        """Generated images of the batch's classes, judged by the discriminator."""
        fake, state, both = self._generate(batch, noise), None, self.loss.paired
        if self.config.unrolled is not None:
            state = self._look_ahead(self.config.unrolled, fake, batch, noise)
            # The discriminator ahead depends on the generator, and so do logits of real images.
            both = both or self.loss.zero_sum
        real_logits = self.judge(batch.images, batch, noise, state) if both else None
        return self.loss.generator(self.judge(fake, batch, noise, state), real_logits)

    def path_length_loss(
        self, regularizer: PathLength, batch: Batch, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        """The penalty on path lengths, whose running mean it moves.

        A part of the batch stands for all of it.
        """
        size = -(-len(batch) // regularizer.batch_share)
        some, few = batch.part(slice(0, size)), noise.first(size)
        z = few.normal(self.latent_dim).to(some.images)
        generator = cast(StyledGenerator, self.generator)
        images, styles = generator.with_styles(z, some.labels, few)
        lengths = path_lengths(images.float(), styles, few)
        total = torch.stack([lengths.detach().sum(), lengths.new_tensor(float(size))])
        mean, count = distributed.all_reduce_sum(total)
        self.path_length_mean.lerp_(mean / count, regularizer.decay)
        losses = regularizer.penalty(lengths, self.path_length_mean.clone())
        return losses.repeat(regularizer.batch_share)[: len(batch)]

    @torch.no_grad()
    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """Images in [-1, 1] from z ~ N(0, I), one for each stream of `noise`."""
        device = next(self.parameters()).device
        z = noise.normal(self.latent_dim).to(device)
        if labels is not None:
            labels = labels.to(device)
        images = self.generator(z, labels if self.num_classes else None, noise)
        if on_step is not None:
            on_step(0, images, images)
        return images.clamp(-1, 1)  # type: ignore[no-any-return]

    def judge(
        self, x: Images, batch: Batch, noise: RandomStream, state: State | None = None
    ) -> Logits:
        """The logits of real or generated images: what happens to both, then the discriminator.

        Args:
            batch: whose labels the images have.
            state: of the discriminator; None: its own.
        """
        x = self._before_discriminator(x, batch, noise)
        if state is None:
            return self.discriminator(x, batch.labels).float()  # type: ignore[no-any-return]
        return judged_by(self.discriminator, state, x, batch.labels).float()

    @property
    def boundary(self) -> float | None:
        """The logit between real and generated images; None where the loss leaves it open."""
        return self.loss.boundary

    def logits(self, batch: Batch) -> Logits:
        """The discriminator's logits of images as they are: without augmentation and noise."""
        device = next(self.parameters()).device
        labels = batch.labels.to(device) if batch.labels is not None and self.num_classes else None
        return self.discriminator(batch.images.to(device), labels).float()  # type: ignore[no-any-return]

    def _before_discriminator(self, x: Images, batch: Batch, noise: RandomStream) -> Images:
        """Changes made to real and generated images."""
        if self.augment is not None:
            x = self.augment(x, noise)
        std, end = self.config.input_noise, self.config.input_noise_images
        if end is not None:
            std *= max(0.0, 1 - batch.images_seen / end)
        return x + std * noise.normal_like(x) if std > 0 else x

    def _generate(self, batch: Batch, noise: RandomStream) -> Images:
        z = noise.normal(self.latent_dim).to(batch.images)
        return self.generator(z, batch.labels, noise)  # type: ignore[no-any-return]

    def _discriminator_batch(
        self, batch: Batch, noise: RandomStream, penalties: Sequence[DiscriminatorRegularizer]
    ) -> DiscriminatorBatch:
        """The images of a discriminator step, with gradients where `penalties` want them."""

        def generate() -> Images:
            with torch.no_grad():
                fake = self._generate(batch, noise)
            return fake.requires_grad_(any(isinstance(r, R2) for r in penalties))

        real = batch.images.detach().requires_grad_(any(isinstance(r, R1) for r in penalties))
        return DiscriminatorBatch(real, generate, lambda x: self.judge(x, batch, noise))

    def _look_ahead(
        self, unrolled: Unrolling, fake: Images, batch: Batch, noise: RandomStream
    ) -> State:
        """The discriminator after some more steps against these generated images."""

        def loss(state: State) -> Tensor:
            real_logits = self.judge(batch.images, batch, noise, state)
            return self.loss.discriminator(
                real_logits, self.judge(fake, batch, noise, state)
            ).mean()

        moments = None if self.moments is None else self.moments.read()
        return unrolled.ahead(self.discriminator, loss, moments)

    def _observe(self, real_logits: Logits, fake_logits: Logits) -> None:
        """Record the logits of training images and of generated ones."""
        self._observations = dict(logits_and_accuracy(self.loss, real_logits, fake_logits))
        if self.augment is not None:
            self._observations |= self.augment.observe(real_logits - (self.boundary or 0.0))

    def observations(self) -> Mapping[str, Float[Tensor, " B"]]:
        """The discriminator's logits and accuracy, and the state of the augmentation."""
        found, self._observations = self._observations, {}
        return found

    def warnings(self) -> Sequence[str]:
        """What the augmentation finds wrong."""
        return [] if self.augment is None else self.augment.warnings()

    @torch.no_grad()
    def _after_discriminator(self) -> None:
        """Clip the weights if the loss asks for it; update what has a state."""
        clip = getattr(self.loss, "clip", None)
        if clip is not None:
            for parameter in self.discriminator.parameters():
                parameter.clamp_(-clip, clip)
        if self.augment is not None:
            self.augment.adapt()
        if self.moments is not None:
            self.moments.add(self.discriminator)
