#!/usr/bin/env python3
"""The README's picture: the first sixteen evaluation prompts of a run, base model left and tuned model right.

    tools/demo_picture.py RUN_DIR docs/images/demo.png

Needs Pillow.
"""

import json
import sys
from pathlib import Path

from PIL import Image

SIDE, GAP, COLUMNS = 96, 2, 4
PAIR = (2 * SIDE + GAP + 12, SIDE + 10)


def main():
    run, out = Path(sys.argv[1]) / "evaluation", sys.argv[2]
    pairs = {}
    for line in (run / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["sample"] == 0:
            pairs.setdefault(row["prompt_id"], {})[row["model"]] = run / row["image"]
    first = [pairs[prompt] for prompt in sorted(pairs)[:16]]
    rows = -(-len(first) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * PAIR[0] - 12 - 2, rows * PAIR[1] - 10), "white")
    for i, pair in enumerate(first):
        x, y = i % COLUMNS * PAIR[0], i // COLUMNS * PAIR[1]
        for side, model in enumerate(("base", "tuned")):
            picture = Image.open(pair[model]).convert("RGB").resize((SIDE, SIDE), Image.BICUBIC)
            sheet.paste(picture, (x + side * (SIDE + GAP), y))
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
