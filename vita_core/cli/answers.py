"""``vita run --images``: the same question about every picture of a folder, a JSON line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita_core.cli.common import write_whole
from vita_core.errors import ConfigError, PictureError, VitaError

if TYPE_CHECKING:
    from PIL import Image

    from vita_core.model import Answer, VisionLanguageModel

__all__ = ["Tally", "answer_folder", "pictures_of", "read_answers"]

Row = dict[str, Any]
