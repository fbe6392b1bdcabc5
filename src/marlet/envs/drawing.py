"""Pictures of small worlds with numpy alone: cells, discs and digits on an RGB frame."""

import numpy as np
from jaxtyping import Float, UInt8

Frame = UInt8[np.ndarray, "height width 3"]

COLOURS = np.array(
    [[214, 69, 65], [46, 113, 194], [243, 156, 18], [125, 60, 152], [23, 162, 184], [92, 64, 51], [232, 67, 147]]
)
"""Agent i is drawn in colour `i % 7`."""

DIGITS = """
### .#. ### ### #.# ### ### ### ### ###
#.# ##. ..# ..# #.# #.. #.. ..# #.# #.#
#.# .#. ### ### ### ### ### ..# ### ###
#.# .#. #.. ..# ..# ..# #.# ..# #.# ..#
### ### ### ### ..# ### ### ..# ### ###
"""
FONT = np.array([[[mark == "#" for mark in glyph] for glyph in line.split()] for line in DIGITS.split("\n")[1:-1]])
"""Digit k is `FONT[:, k]`, 5 pixels high and 3 wide."""


def board(colours: Float[np.ndarray, "rows cols 3"], cell: int) -> Frame:
    """A square of `cell` pixels for each cell, in its colour, parted by thin white lines."""
    frame = np.repeat(np.repeat(colours, cell, 0), cell, 1).astype(np.uint8)
    frame[::cell] = 255
    frame[:, ::cell] = 255
    return frame


def disc(frame: Frame, row: float, col: float, radius: float, colour: np.ndarray) -> None:
    """Paint a disc with a soft edge into `frame`; all lengths in pixels."""
    rows, cols = np.ogrid[: frame.shape[0], : frame.shape[1]]
    cover = np.clip(radius + 0.5 - np.hypot(rows - row, cols - col), 0, 1)[..., None]
    frame[:] = np.round(frame * (1 - cover) + colour * cover)


def digit(frame: Frame, row: int, col: int, value: int, size: int, colour: np.ndarray) -> None:
    """Write one digit with its upper left corner at (row, col); a dot of the font is `size` pixels wide."""
    marks = np.repeat(np.repeat(FONT[:, value], size, 0), size, 1)
    frame[row : row + marks.shape[0], col : col + marks.shape[1]][marks] = colour


def agents(frame: Frame, row: np.ndarray, col: np.ndarray, cell: int) -> None:
    """A disc for each agent in its cell, each a little off the centre so that agents in one cell stay visible."""
    for i, (r, c) in enumerate(zip(row, col, strict=True)):
        angle = 2 * np.pi * i / len(row)
        y, x = (r + 0.5 + 0.2 * np.sin(angle)) * cell, (c + 0.5 + 0.2 * np.cos(angle)) * cell
        disc(frame, y, x, 0.24 * cell, np.full(3, 255))
        disc(frame, y, x, 0.2 * cell, COLOURS[i % len(COLOURS)])
