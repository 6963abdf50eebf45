"""Masks as pictures: a dot is a weight that is kept."""

import base64
import io
from collections.abc import Container

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


def mask_images(plan: Plan, finished: Container[Spec]) -> list[tuple[str, str, str]]:
    """Show the policy's masks of the first seed as they are: title, what is left out, and the pictures as HTML."""
    config = plan.config
    seed, size, policy = config.seeds[0], 0, config.agent_config.POLICY
    found: list[tuple[str, str, str]] = []
    seen: set[MaskSpec] = set()
    for row in plan.rows:
        mask = row.run.mask if isinstance(row.run, TicketSpec) and not row.control and row.dense.seed == seed else None
        if not isinstance(mask, MaskSpec) or mask not in finished or mask in seen:
            continue
        seen.add(mask)
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
            title, _, body = found[-1]
            found[-1] = (title, "The masks that follow are left out; the page would get too large.", body)
            break
        found.append((name, "", images))
    return found


def _png(kept: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(kept.astype(np.uint8), mode="P")
    image.putpalette([128, 128, 128, 0, 114, 178])
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True, bits=1, transparency=0)
    return data.getvalue()
