"""Image sheets: what pages of pictures drawn with Pillow share."""

PAPER, INK, FAINT, RULE = (255, 255, 255), (28, 28, 30), (128, 128, 134), (226, 226, 230)
