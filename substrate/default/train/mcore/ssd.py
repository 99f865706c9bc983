"""Mamba-2's state-space duality (SSD) scan and its causal convolution, in plain torch.

Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 6. Several sequences may be
packed into a row: `segments` numbers them, and neither state nor convolution crosses a boundary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, segments: Tensor | None) -> Tensor:
    """Depthwise causal convolution.

    Args:
        x: (batch, length, channels); weight: (channels, kernel), the last tap is the position
            itself; segments: (batch, length) or None.
    """
    kernel, length = weight.shape[1], x.shape[1]
    out = x * weight[:, -1]
    for back in range(1, min(kernel, length)):
        moved = F.pad(x[:, : length - back], (0, 0, back, 0))
        if segments is not None:
            same = segments[:, back:] == segments[:, : length - back]
            moved = moved * F.pad(same, (back, 0))[..., None]
        out = out + moved * weight[:, -1 - back]
    return out if bias is None else out + bias


def scan(
    x: Tensor,
    dt: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    segments: Tensor | None = None,
) -> Tensor:
    """The recurrence h_t = exp(dt_t decay) h_{t-1} + dt_t b_t x_t, y_t = c_t h_t, by chunks.

    Args:
        x: (batch, length, heads, head_dim), fp32; dt: (batch, length, heads), positive;
        decay: (heads), negative; b, c: (batch, length, groups, state), a group serves
            heads / groups heads; chunk: positions computed as one matrix;
        segments: (batch, length) or None.

    Returns:
        y, of x's shape.
    """
    batch, length, heads, head_dim = x.shape
    groups, state = b.shape[2:]
    chunk = min(chunk, length)
    pad = -length % chunk
    if pad:
        x, b, c = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, b, c))
        dt = F.pad(dt, (0, 0, 0, pad))
        segments = None if segments is None else F.pad(segments, (0, pad), value=-2)
    count, per = (length + pad) // chunk, heads // groups
    # b: batch, k: chunk, g: group, r: head of the group, q and s: positions, p: head_dim, n: state
    head = (batch, count, chunk, groups, per)
    u = (x * dt[..., None]).view(*head, head_dim).permute(0, 1, 3, 4, 2, 5)
    sums = (dt * decay).view(*head).permute(0, 1, 3, 4, 2).cumsum(-1)
    b, c = (t.view(batch, count, chunk, groups, state).permute(0, 1, 3, 2, 4) for t in (b, c))
    seg = None if segments is None else segments.view(batch, count, 1, 1, chunk)

    seen = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    if seg is not None:
        seen = seen & (seg[..., :, None] == seg[..., None, :])
    fade = (sums[..., :, None] - sums[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    y = ((c @ b.transpose(-1, -2)).unsqueeze(3) * fade) @ u
    if count > 1:
        y = y + _between_chunks(u, sums, b, c, seg)
    return y.permute(0, 1, 4, 2, 3, 5).reshape(batch, -1, heads, head_dim)[:, :length]


def _between_chunks(u: Tensor, sums: Tensor, b: Tensor, c: Tensor, seg: Tensor | None) -> Tensor:
    """What the state at each chunk's beginning adds to its outputs; shapes as in `scan`."""
    last = sums[..., -1:]
    weight = (last - sums).exp()
    if seg is not None:  # only the sequence that a chunk ends with hands its state on
        weight = weight * (seg == seg[..., -1:])
    made = (u * weight[..., None]).transpose(-1, -2) @ b.unsqueeze(3)
    carried = torch.zeros_like(made[:, 0])
    entering = [carried]
    for k in range(made.shape[1] - 1):
        keep = last[:, k].exp()
        if seg is not None and k > 0:
            keep = keep * (seg[:, k, ..., -1:] == seg[:, k - 1, ..., -1:])
        carried = carried * keep[..., None] + made[:, k]
        entering.append(carried)
    states = torch.stack(entering, 1)
    reach = sums.exp()
    if seg is not None:
        before = F.pad(seg[:, :-1, ..., -1:], (0, 0, 0, 0, 0, 0, 1, 0), value=-1)
        reach = reach * (seg == before)
    return (c.unsqueeze(3) @ states.transpose(-1, -2)) * reach[..., None]
