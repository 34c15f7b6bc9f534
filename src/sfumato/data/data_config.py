"""The config of a data set: its source, the selection of images, and their form."""

from typing import Annotated, Literal

from pydantic import Field

from sfumato.augment.geometric import Augmentation
from sfumato.core.config import PositiveInt, component, decides
from sfumato.data.decode import Fit, Resize


@component
class DataConfig:
    """A data set: its source, the selection of images, and their preparation.

    Args:
        source: a name of the catalogue (`sfumato data list`), `hf:NAME` for a set of the Hugging
            Face hub, or a path: a folder of images, a zip or tar of them, `.npz`, idx files, a
            set saved by the `datasets` library, a packed set.
        classes: keep only these classes, by name or number, renumbered in this order. () keeps
            all.
        class_names: names for the classes of a source that only numbers them; () keeps its names.
        resolution: height and width in pixels, one number if both are equal; "auto" is the most
            common size.
        fit: how to change the aspect ratio. "crop" cuts out the largest centred part. "letterbox"
            shows the whole image between black bars. "pad" adds black bars or cuts, centred and
            without scaling (28x28 digits for a network that needs 32x32).
        resize: the antialiased filter. "area" is the mean of the covered pixels (bilinear to
            enlarge).
        channels: 1 grey, 3 RGB, 4 RGBA; "auto" is grey if every image is grey, else RGB.
            Transparent images are blended with white unless channels is 4.
        held_out: "auto" is the test split of the source; without one, a fifth of the images
            (digits: a third). A number in (0, 1) is a share of the training images; the test
            split of the source is then unused. The choice is by content, within each class.
        limit: maximum number of training images, chosen by content, within each class.
        fraction: share of the training images to use, chosen in the same way.
        duplicates: "keep", or "drop" repeated images within each split, and training images that
            are also held out.
        augment: random changes of the training images.
    """

    source: str = "digits"
    classes: tuple[int | str, ...] = ()
    class_names: tuple[str, ...] = ()
    resolution: Literal["auto"] | int | tuple[int, int] = "auto"
    fit: Fit = "crop"
    resize: Resize = "area"
    channels: Literal["auto", 1, 3, 4] = "auto"
    held_out: Annotated[
        Literal["auto"] | Annotated[float, Field(gt=0, lt=1)], decides("protocol")
    ] = "auto"
    limit: PositiveInt | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    duplicates: Literal["keep", "drop"] = "keep"
    augment: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("source is empty; give a name of `sfumato data list` or a path")
        if self.resolution != "auto" and min(self.size or (0,)) < 1:
            raise ValueError(
                f"resolution is {self.resolution}; it should be 'auto', a positive number of "
                "pixels or [height, width]"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes names a class twice: {list(self.classes)}")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, or None for "auto"."""
        if self.resolution == "auto":
            return None
        if isinstance(self.resolution, int):
            return self.resolution, self.resolution
        return self.resolution
