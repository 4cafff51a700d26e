"""Images as they are sent to a judge: their format, size and quality are settings, and part of what is asked.

The default is JPEG of quality 95 with a longer side of at most 512 pixels: Real-Edit's evaluation sends JPEG after
scaling to 512, and endpoints bill by size. 95, with full colour resolution, because the judge of image quality must not
see artefacts that come from the sending. Images are never enlarged.
"""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from rewardedit_jax.data.encoded import EncodedEdit
from rewardedit_jax.data.images import decode_image

FORMATS = ("jpeg", "png")


@dataclass(frozen=True)
class ImageSettings:
    """How both images of an edit are sent."""

    format: str = "jpeg"  # one of FORMATS
    side: int = 512  # pixels; the longer side is scaled down to it
    quality: int = 95  # 1..100, of a JPEG

    def __post_init__(self):
        if self.format not in FORMATS or self.side < 1 or not 1 <= self.quality <= 100:
            raise ValueError(f"{self}: expected format {' or '.join(FORMATS)}, a side of 1 or more, quality in 1..100.")

    @property
    def name(self) -> str:
        """The settings as questions name them: "jpeg 512px q95", "png 512px"."""
        return f"{self.format} {self.side}px" + (f" q{self.quality}" if self.format == "jpeg" else "")

    def data_urls(self, edit: EncodedEdit) -> tuple[str, str]:
        """The source and the edited image as `data:` URLs. Raises `ImageError` if one cannot be decoded."""
        pairs = zip((edit.source, edit.edited), edit.names, strict=True)
        return tuple(self._data_url(decode_image(data, name)) for data, name in pairs)

    def _data_url(self, image: Image.Image) -> str:
        if max(image.size) > self.side:
            image.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        # Subsampling 0: colours at full resolution. PNG ignores both settings.
        image.save(file, self.format, quality=self.quality, subsampling=0)
        return f"data:image/{self.format};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
