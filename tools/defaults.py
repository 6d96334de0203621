#!/usr/bin/env python3
"""Compares the choices that the paper leaves open, on the embedded model, and prints a table.

One run per seed draws and scores candidates with the recipe's settings; every variant that changes only
selection or training starts from a copy of them. Prompts are those meant for choosing settings
(`prompts.eval = "select"`), never those that results are reported on.

    tools/defaults.py --craft target/release/craft --out DIR [--seeds 1 2 3] [--only NAME ...]

Needs Python 3.9 or newer and nothing else. Finished runs are reused.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
from pathlib import Path

# name: (settings, whether candidates must be drawn again)
VARIANTS = {
    "default": ({}, False),
    "random picks": (None, False),
    "r_total raw": ({"select.total": "raw"}, False),
    "r_total gdpo": ({"select.total": "gdpo"}, False),
    "weights 1": ({"select.sign": "ones"}, False),
    "signed": ({"select.sign": "signed"}, False),
    "shifted by .5": ({"select.sign": "shifted"}, False),
    "conditioned on the expanded prompt": ({"train.conditioning": "expanded"}, False),
    "conditioned on either": ({"train.conditioning": "mixed"}, False),
    "10 % without prompt": ({"train.unconditional_dropout": 0.1}, False),
    "learning rate 1e-5": ({"train.learning_rate": 1e-5}, False),
    "learning rate 1e-4": ({"train.learning_rate": 1e-4}, False),
    "one candidate a prompt": ({"select.max_per_prompt": 1}, False),
    "margin .25": ({"select.margin": 0.25}, False),
    "shared noise": ({"generate.shared_noise": True}, True),
    "advantages in deviations of the group": ({"select.advantage_scale": "group"}, False),
    "all timesteps": ({"train.timestep_min": 0}, False),
    "timesteps below 400": ({"train.timestep_min": 0, "train.timestep_max": 400}, False),
    "timesteps below 600": ({"train.timestep_min": 0, "train.timestep_max": 600}, False),
    "timesteps below 800": ({"train.timestep_min": 0, "train.timestep_max": 800}, False),
    "timesteps below 600, 10 % without prompt": (
        {"train.timestep_min": 0, "train.timestep_max": 600, "train.unconditional_dropout": 0.1}, False),
}
DRAWN = ["prompts", "expanded", "candidates", "rewards"]
HELD_OUT = ["pocket-ir", "checker"]


def settings(values):
    for key, value in values.items():
        text = json.dumps(value) if not isinstance(value, bool) else str(value).lower()
        yield from ("--set", f"{key}={text}")


def run(craft, recipe, out, seed, values, drawn=None):
    if not (out / "run.json").exists():
        values = {"seed": seed, "prompts.eval": "select", **values}
        args = [str(craft), "-q", "run", str(recipe), "--out", str(out), *settings(values)]
        if drawn is not None and not out.exists():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            for part in DRAWN:
                shutil.copytree(drawn / part, out / part)
            resolved = subprocess.run([*args, "--dry-run"], check=True, capture_output=True, text=True)
            lines = [l for l in resolved.stdout.splitlines() if not l.startswith("#")]
            (out / "recipe.toml").write_text("\n".join(lines).strip() + "\n")
        subprocess.run(args, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "run.json").read_text())["evaluation"]


def cell(values):
    """Mean, and half width of its 95 % t interval where there are several seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
    half = t.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.3f} ±{half:.3f}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--craft", type=Path, default=Path("target/release/craft"))
    p.add_argument("--recipe", type=Path, default=Path(__file__).parent.parent / "recipes/pocket.toml")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--only", nargs="+", choices=VARIANTS)
    a = p.parse_args()
    rows = {}
    for seed in a.seeds:
        first = a.out / f"seed-{seed}"
        base = run(a.craft, a.recipe, first, seed, {})
        for name, (values, redraw) in VARIANTS.items():
            if a.only and name not in a.only:
                continue
            if not values:
                found = base
            else:
                out = a.out / f"seed-{seed}-{name.replace(' ', '-').replace('.', '').replace(',', '')}"
                values = {**values, "control.enabled": False}
                found = run(a.craft, a.recipe, out, seed, values, None if redraw else first)
            key = "control" if values is None else "tuned"
            gains = {r: e[key] - e["base"] for r, e in found.items()}
            rows.setdefault(name, []).append(gains)
            print(seed, name, {r: round(g, 4) for r, g in gains.items()}, flush=True)
    rewards = list(next(iter(rows.values()))[0])
    print("\n| variant | " + " | ".join(r + (", held out" if r in HELD_OUT else "") for r in rewards) + " |")
    print("|---" * (len(rewards) + 1) + "|")
    for name, gains in rows.items():
        cells = (cell([g[r] for g in gains]) for r in rewards)
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
