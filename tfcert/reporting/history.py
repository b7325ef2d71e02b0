"""The History of a training run as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

__all__ = ["plot_history"]

# What is no loss term among the quantities of a History.
NO_TERMS = ("accuracy", "eps", "seconds", "weight", "rate", "threshold", "ramp", "quality")
_SHARES = {
    "accuracy": ("right", "C1"),
    "noisy_accuracy": ("right under noise", "C1"),
    "verified_accuracy": ("verified", "C2"),
}


def plot_history(
    history: keras.callbacks.History | Mapping[str, Sequence[float]], axes: Any = None
) -> Any:
    """Draws accuracies, loss terms and the training radius over the epochs.

    Solid lines show validation, at the target region, if there is validation. Dotted lines show
    training.

    Args:
        history: The return value of ``fit``, or its ``history``, a dictionary of lists.
        axes: Three matplotlib axes to draw on. None: new axes.

    Returns:
        The three axes, an array.

    Raises:
        ImportError: matplotlib is not installed.

    Example:

    >>> history = trainer.fit(x, y, epochs=20, validation_data=(x_test, y_test))
    >>> tfcert.reporting.plot_history(history)
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("`plot_history` needs matplotlib: pip install matplotlib.") from error
    values = getattr(history, "history", history)
    if not isinstance(values, Mapping) or not values:
        raise ValueError(
            "`history` must be what fit returns, or its dictionary of lists. "
            f"Received: history={history!r}."
        )
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    shares, losses, radius = axes
    _draw_shares(values, shares)
    for name in loss_terms(values):
        _line(losses, values[name], label=name, linestyle="-" if name == "loss" else "--")
    losses.set_title("loss in training, and its terms")
    for name in ("eps", "ramp"):
        if name in values:
            _line(radius, values[name], label=name, color="C0")
    radius.set_title("training radius")
    for each in axes:
        each.set_xlabel("epoch")
        if each.lines:
            each.legend(frameon=False)
        each.grid(alpha=0.3)
    return axes


def loss_terms(history: Mapping[str, Any]) -> list[str]:
    """The loss and its terms, as far as names tell, among the quantities of a History."""
    return [
        name
        for name in history
        if not name.startswith("val_") and not any(word in name for word in NO_TERMS)
    ]


def _draw_shares(values: Mapping[str, Sequence[float]], axes: Any) -> None:
    for name, (words, color) in _SHARES.items():
        validated = f"val_{name}" in values
        if validated:
            _line(axes, values[f"val_{name}"], label=words, color=color)
        if name in values:
            label = None if validated else words
            _line(axes, values[name], label=label, color=color, linestyle=":")
    axes.set_title("share of the inputs")
    axes.set_ylim(-0.02, 1.02)


def _line(axes: Any, values: Sequence[float], **look: Any) -> None:
    # A single epoch is a point, which no line shows.
    marker = "o" if len(values) == 1 else ""
    axes.plot(range(1, len(values) + 1), values, marker=marker, **look)
