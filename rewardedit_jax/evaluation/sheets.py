"""Image sheets drawn with Pillow: pages of labelled pictures in rows and columns."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

PAPER, INK, FAINT, RULE = (255, 255, 255), (28, 28, 30), (128, 128, 134), (226, 226, 230)
_MARGIN = 20  # pixels, like all lengths here
CAPTION_LINE = 16  # height of a line below a picture


class Sheet:
    """A white page with a grid of square cells, each with a picture and a caption below it.

    Optional parts: a heading above each column, a column of text after the first column of pictures, and a footer.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        side: int,
        *,
        gap: int = 10,  # between columns, and below the caption of a row
        caption: int = 22,  # height of the space below each picture, `CAPTION_LINE` per line
        heading: int = 0,  # height of the space above the first row
        footer: int = 0,  # height of the space below the last row
        text_width: int = 0,  # of the text column
    ):
        """Makes an empty page for pictures of width and height `side`, without the parts of size 0."""
        self.side, self._gap, self._heading = side, gap, heading
        self._pitch = side + caption + gap
        self._text = text_width + gap if text_width else 0
        self._bottom = self._top(rows)
        width = 2 * _MARGIN + columns * (side + gap) - gap + self._text
        self.image = Image.new("RGB", (width, self._bottom + footer + _MARGIN), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        # Sizes, as Pillow's default font has no bold face.
        self._large, self._body, self._small = (ImageFont.load_default(size) for size in (17, 16, 13))
        # The rule separates headings from pictures, which may be as white as the page.
        if heading:
            self._draw.line((_MARGIN, self._top(0) - 9, width - _MARGIN, self._top(0) - 9), RULE)

    def picture(self, row: int, column: int, picture: Image.Image, caption: Sequence[str] = (), color=FAINT) -> None:
        """Pastes a picture, scaled to the cell and aligned with its bottom, and writes its caption in the color."""
        left, top = self._left(column), self._top(row)
        # A picture that is enlarged at least twofold keeps its pixels visible: smoothing would invent detail.
        small = 2 * max(picture.size) <= self.side
        method = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
        # The whole picture, not a crop: an edit may be at its border.
        fitted = ImageOps.contain(picture, (self.side, self.side), method)
        self.image.paste(fitted, (left, top + self.side - fitted.height))
        for i, line in enumerate(caption):
            self._draw.text((left, top + self.side + 3 + i * CAPTION_LINE), line, color, self._small)

    def heading(self, column: int, text: str) -> None:
        """Writes the heading of a column of pictures."""
        self._draw.text((self._left(column), _MARGIN), text, INK, self._large)

    def text_heading(self, text: str) -> None:
        """Writes the heading of the text column."""
        self._draw.text((self._text_left, _MARGIN), text, INK, self._large)

    def text(self, row: int, label: str, text: str, letters: int = 18) -> None:
        """Writes a small label in the text column, and below it the text in lines of at most `letters` letters."""
        top = self._top(row)
        self._draw.text((self._text_left, top + 2), label, FAINT, self._small)
        wrapped = textwrap.fill(text, letters)
        self._draw.multiline_text((self._text_left, top + 24), wrapped, INK, self._body, spacing=6)

    def footer(self, text: str) -> None:
        """Writes the text below the last row; it may have several lines."""
        self._draw.text((_MARGIN, self._bottom), text, FAINT, self._small)

    @property
    def _text_left(self) -> int:
        return _MARGIN + self.side + self._gap

    def _left(self, column: int) -> int:
        return _MARGIN + column * (self.side + self._gap) + (self._text if column else 0)

    def _top(self, row: int) -> int:
        return _MARGIN + self._heading + row * self._pitch
