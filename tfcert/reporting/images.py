"""Inputs as pictures: original, changed input and the difference."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import image

from tfcert.reporting import page

__all__ = ["card", "difference", "gallery", "is_image", "picture"]


def is_image(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape are pictures: height, width, and 1 or 3 colours or none."""
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3))


def picture(values: np.ndarray, description: str, reverse: bool = False) -> str:
    """An image of values from 0 (black) to 1 (white) as HTML, black and white swapped on wish."""
    values = np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0.0, 1.0)
    return _html(_rgb(1.0 - values if reverse else values), description)


def difference(changed: np.ndarray, original: np.ndarray) -> tuple[str, float]:
    """The change as HTML and its largest absolute value, which is drawn in full colour.

    Of grey images, more is red and less is blue; no change is white. Of colour images, each channel
    is drawn about a middle grey.
    """
    change = np.asarray(changed, np.float64) - np.asarray(original, np.float64)
    largest = float(np.abs(change).max(initial=0.0))
    scaled = change / largest if largest > 0 else np.zeros_like(change)
    if change.ndim == 3 and change.shape[-1] == 3:
        drawn = 0.5 + scaled / 2
    else:
        scaled = scaled.reshape(change.shape[:2])
        more, less = np.clip(scaled, 0, 1), np.clip(-scaled, 0, 1)
        drawn = np.stack([1 - less, 1 - more - less, 1 - more], axis=-1)
    return _html(drawn, f"the change, at most {largest:.3g}"), largest


def _rgb(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        values = values[..., None]
    return np.broadcast_to(values, (*values.shape[:2], 3))


def _html(values: np.ndarray, description: str) -> str:
    out = io.BytesIO()
    pixels = np.ascontiguousarray(np.round(values * 255).astype(np.uint8))
    image.imsave(out, pixels, format="png")
    data = base64.b64encode(out.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return (
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{page.escape(description)}">'
    )


def card(pictures: Sequence[tuple[str, str]], caption: str) -> str:
    """Pictures side by side, each over its own name, above one caption; names may be empty."""
    spans = [
        f"<span>{picture}{page.escape(name)}</span>" if name else f"<span>{picture}</span>"
        for picture, name in pictures
    ]
    return page.figure(f'<div class="row">{"".join(spans)}</div>', caption)


def gallery(cards: Sequence[str], wide: bool = False) -> str:
    """Cards in as many columns as fit."""
    return f'<div class="gallery{" wide" if wide else ""}">\n' + "\n".join(cards) + "\n</div>"
