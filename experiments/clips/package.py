"""From a trained seed to the model folder of clips: ``python -m experiments.clips.package CHECKPOINT [FOLDER]``."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from experiments.trainings.package import write_model
from experiments.trainings.qwen_folder import CLIPS_TEMPLATE, write_processor
from tokenprune.zoo import embedded_video


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=embedded_video.path())
    arguments = parser.parse_args()
    card = Path(__file__).with_name("card.md").read_text()
    write_model(
        arguments.checkpoint, arguments.folder, card, partial(write_processor, template=CLIPS_TEMPLATE), "clips.json"
    )


if __name__ == "__main__":
    main()
