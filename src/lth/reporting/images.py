"""Masks as pictures: a dot is a weight that is kept."""

import base64
import io
from collections.abc import Container, Sequence

import numpy as np

from ..analysis.paths import layers
from ..experiment import store
from ..experiment.journal import last_file
from ..experiment.plan import Plan
from ..experiment.spec import MaskSpec, Spec, TicketSpec
from .html import text
from .scores import percent
from .views import label

MOST_IMAGES = 400_000
"""Bytes that pictures of single masks may take."""


def mask_images(plan: Plan, finished: Container[Spec]) -> str:
    """Show the policy's masks of the first seed as they are: a dot is a weight that is kept."""
    config = plan.config
    seed, size, policy = config.seeds[0], 0, config.agent_config.POLICY
    parts: list[str] = []
    for row in plan.rows:
        mask = row.run.mask if isinstance(row.run, TicketSpec) and not row.control and row.dense.seed == seed else None
        if not isinstance(mask, MaskSpec) or mask not in finished:
            continue
        name = f"{row.dense.task}, {label(row.method, row.control)}, {percent(row.sparsity)}"
        images = ""
        for layer in layers(store.load_mask(last_file(plan.root, mask))[policy]):
            if layer.kept.all():
                continue
            height, width = layer.kept.shape
            png, zoom = _png(layer.kept), max(1, 256 // width)
            size += len(png)
            images += (
                f'<img alt="{text(name)}, {layer.name}" width="{width * zoom}" height="{height * zoom}" '
                f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            )
        if size > MOST_IMAGES:
            return _image_section(parts, seed, policy, f" Only the first {len(parts)}; the page would get too large.")
        parts.append(f"<figure>{images}<figcaption>{text(name)}</figcaption></figure>")
    return _image_section(parts, seed, policy, "")


def _image_section(parts: Sequence[str], seed: int, policy: str, more: str) -> str:
    if not parts:
        return ""
    return (
        f"<details><summary>The masks of the {policy}, weight by weight (seed {seed})</summary>"
        f'<p class="note">A dot is a weight that is kept; rows are inputs, columns are units; the first layer on top.{more}</p>'
        f'<div class="masks">{"".join(parts)}</div></details>'
    )


def _png(kept: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(kept.astype(np.uint8), mode="P")
    image.putpalette([128, 128, 128, 0, 114, 178])
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True, bits=1, transparency=0)
    return data.getvalue()
