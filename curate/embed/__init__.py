"""`curate embed`, `status` and `fetch`: every image and prompt of a data set scored once, in parts that survive a kill.

Rooms: planning (which pairs stand, cut into parts), engines (where workers run), decode (bytes to pixels), device (what
one worker does). It may use models, sources, storage and, to see whether half precision ranks alike, rank. Begin at
stage.py, then device/pipeline.py.
"""

from curate.embed.options import EmbedOptions
from curate.embed.stage import embed

__all__ = ["EmbedOptions", "embed"]
