"""Images as they are sent to a judge: their format, size and quality are settings, and part of what is asked.

The default is JPEG of quality 95 with a longer side of at most 512 pixels: Real-Edit's evaluation sends JPEG after
scaling to 512, and endpoints bill by size. 95, with full colour resolution, because the judge of image quality must not
see artefacts that come from the sending. Images are never enlarged.
"""

import base64
import io
import math
from dataclasses import dataclass

from PIL import Image

from rewardedit_jax.data.encoded import EncodedEdit
from rewardedit_jax.data.images import decode_image

FORMATS = ("jpeg", "png")
# How the size of an image is chosen: the longer side is at most `side`; or the source stays as it is and the edited
# image gets its size; or each is scaled to the area side², the aspect ratio kept.
SIDE, AS_SOURCE, AREA = SIZES = ("side", "source", "area")


@dataclass(frozen=True)
class ImageSettings:
    """How both images of an edit are sent."""

    format: str = "jpeg"  # one of FORMATS
    side: int = 512  # pixels; the longer side is scaled down to it
    quality: int = 95  # 1..100, of a JPEG
    sizes: str = SIDE  # one of SIZES

    def __post_init__(self):
        known = self.format in FORMATS and self.sizes in SIZES
        if not known or self.side < 1 or not 1 <= self.quality <= 100:
            raise ValueError(f"{self}: expected format {' or '.join(FORMATS)}, a side of 1 or more, quality in 1..100.")

    @property
    def name(self) -> str:
        """The settings as questions name them: "jpeg 512px q95", "png 512px", "jpeg 512²px q95"."""
        size = {SIDE: f"{self.side}px", AS_SOURCE: "as source", AREA: f"{self.side}²px"}[self.sizes]
        return f"{self.format} {size}" + (f" q{self.quality}" if self.format == "jpeg" else "")

    def data_urls(self, edit: EncodedEdit) -> tuple[str, str]:
        """The source and the edited image as `data:` URLs. Raises `ImageError` if one cannot be decoded."""
        pairs = zip((edit.source, edit.edited), edit.names, strict=True)
        source, edited = (decode_image(data, name) for data, name in pairs)
        size = source.size  # before it is scaled in place
        return self._encoded(self._scaled(source, size)), self._encoded(self._scaled(edited, size))

    def _encoded(self, image: Image.Image) -> str:
        file = io.BytesIO()
        # Subsampling 0: colours at full resolution. PNG ignores both settings.
        image.save(file, self.format, quality=self.quality, subsampling=0)
        return f"data:image/{self.format};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

    def _scaled(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The image at the size that it is sent at; `size` is that of the source."""
        if self.sizes == SIDE:
            if max(image.size) > self.side:
                image.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
            return image
        if self.sizes == AREA:
            scale = self.side / math.sqrt(image.width * image.height)
            size = tuple(max(1, int(side * scale)) for side in image.size)
        return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
