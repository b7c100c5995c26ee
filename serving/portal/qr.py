"""An address as a QR code, drawn within the page.

Belongs here: the drawing. Does not belong here: which address, and where it stands on the page.
"""

from __future__ import annotations

from functools import lru_cache

import segno
from markupsafe import Markup

QUIET_MODULES = 4
"""Width of the light margin that scanners need."""


@lru_cache(maxsize=256)
def qr_code(address: str) -> Markup:
    """SVG of the address, dark on light whatever is behind it, as large as what it stands in."""
    drawn = segno.make_qr(address, error="m").svg_inline(
        omitsize=True, border=QUIET_MODULES, dark="#000", light="#fff", svgclass=None, lineclass=None
    )
    # Of the address only dark and light squares are left: there is nothing to escape.
    return Markup(drawn)
