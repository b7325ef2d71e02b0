"""Transformers and recurrent layers as torch modules, of operations that auto_LiRPA knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["OPS", "layer"]

OPS = ("tokens", "layernorm", "centering", "attention", "first", "gelu", "rows", "lstm", "gru")


def layer(node: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    """The module of a node.

    Args:
        node: The node, whose op is one of ``OPS``.
        weights: Its weights as tensors, by the names of ``graphs.WEIGHTS``.
    """
    import torch
    from torch import nn

    class Tokens(nn.Module):
        """Places of a map as tokens behind a class token, with positions added."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(weights["table"])

        def forward(self, x: Any) -> Any:
            patches = x.flatten(2).transpose(1, 2) + self.table[1:]
            first = self.table[:1].unsqueeze(0).repeat(x.shape[0], 1, 1)
            return torch.cat([first, patches], dim=1)

    class Normalised(nn.Module):
        """Layer normalisation over the last axis."""

        def __init__(self) -> None:
            super().__init__()
            self.gamma, self.beta = (nn.Parameter(weights[name]) for name in ("gamma", "beta"))

        def forward(self, x: Any) -> Any:
            centered = x - x.mean(-1, keepdim=True)
            variance = (centered**2).mean(-1, keepdim=True) + node["epsilon"]
            return centered * torch.reciprocal(torch.sqrt(variance)) * self.gamma + self.beta

    class Attention(nn.Module):
        """Attention of a sequence to itself."""

        def __init__(self) -> None:
            super().__init__()
            parts = {}
            for part in ("query", "key", "value", "output"):
                kernel, bias = weights[f"{part}_kernel"], weights[f"{part}_bias"].flatten()
                side = bias.shape[0]
                parts[part] = nn.Linear(kernel.numel() // side, side)
                parts[part].weight.data = kernel.reshape(-1, side).T.contiguous()
                parts[part].bias.data = bias
            self.parts = nn.ModuleDict(parts)

        def forward(self, x: Any) -> Any:
            length, width = x.shape[1:]
            heads = node["heads"]
            query, key, value = (
                self.parts[part](x).reshape(-1, length, heads, width // heads).permute(0, 2, 1, 3)
                for part in ("query", "key", "value")
            )
            scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(width // heads)
            mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
            return self.parts["output"](mixed.permute(0, 2, 1, 3).reshape(-1, length, width))

    class Centered(nn.Module):
        """The value without its mean over the last axis."""

        def forward(self, x: Any) -> Any:
            return x - x.mean(-1, keepdim=True)

    class Rows(nn.Module):
        """The rows of an image with one channel."""

        def forward(self, x: Any) -> Any:
            return x.squeeze(1)

    class Recurrent(nn.Module):
        """A recurrent layer, step by step; its last state."""

        def __init__(self) -> None:
            super().__init__()
            bias = weights["bias"].reshape(-1, weights["bias"].shape[-1])
            self.kernels = nn.ModuleList()
            for i, part in enumerate(("kernel", "recurrent")):
                linear = nn.Linear(*weights[part].shape, bias=i < len(bias))
                linear.weight.data = weights[part].T.contiguous()
                if i < len(bias):
                    linear.bias.data = bias[i]
                self.kernels.append(linear)

    class LSTM(Recurrent):
        """Keras's LSTM."""

        def forward(self, x: Any) -> Any:
            units = node["units"]
            hidden = carry = torch.zeros(x.shape[0], units, device=x.device)
            for step in range(x.shape[1]):
                gates = self.kernels[0](x[:, step]) + self.kernels[1](hidden)
                parts = [gates[:, i * units : (i + 1) * units] for i in range(4)]
                enter, forget, leave = (torch.sigmoid(parts[i]) for i in (0, 1, 3))
                carry = forget * carry + enter * torch.tanh(parts[2])
                hidden = leave * torch.tanh(carry)
            return hidden

    class GRU(Recurrent):
        """Keras's GRU, whose reset comes after the product with the kernel."""

        def forward(self, x: Any) -> Any:
            units = node["units"]
            hidden = torch.zeros(x.shape[0], units, device=x.device)
            for step in range(x.shape[1]):
                own, other = self.kernels[0](x[:, step]), self.kernels[1](hidden)
                own, other = (
                    [values[:, i * units : (i + 1) * units] for i in range(3)]
                    for values in (own, other)
                )
                update, reset = (torch.sigmoid(own[i] + other[i]) for i in (0, 1))
                candidate = torch.tanh(own[2] + reset * other[2])
                hidden = update * hidden + (1 - update) * candidate
            return hidden

    class First(nn.Module):
        """The first token."""

        def forward(self, x: Any) -> Any:
            return x[:, 0]

    if node["op"] == "gelu":
        from auto_LiRPA.operators.gelu import GELU

        return GELU()
    kinds = {
        "tokens": Tokens,
        "layernorm": Normalised,
        "centering": Centered,
        "attention": Attention,
        "first": First,
        "rows": Rows,
        "lstm": LSTM,
        "gru": GRU,
    }
    return kinds[node["op"]]()
