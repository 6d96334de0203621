"""The same work in PyTorch with diffusers and in `craft bench`, alternating, as ratios.

    python tools/bench/vs_diffusers.py MODEL --craft target/release/craft [--batch 32] [--size 64] [--rounds 5]
                                       [--out DIR]

One round runs, one after another: a training step (forward, weighted squared error, backward, clipping, AdamW) and a sampling
step (forward of twice the batch, for guidance) in PyTorch f32, f32 channels-last, bf16 autocast and bf16 autocast channels-last,
and in craft f32 and, where the processor has it, bf16. Before timing, one prediction of both programs is compared. Prints medians
of the rounds' medians with their smallest and largest value, and the ratio to PyTorch's best of each precision and overall. With
--out the raw figures go to DIR as JSON with machine, versions and command.

Needs torch, diffusers, safetensors (checked with torch 2.15, diffusers 0.42). Nothing else in the project needs Python.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import diffusers
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

STEPS, WARM_UP = 4, 1


def inputs(unet, batch, latent, tokens):
    c = unet.config
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    width = c.cross_attention_dim
    return normal(batch, c.in_channels, latent, latent), torch.randint(0, 1000, (batch,), generator=generator), \
        normal(batch, tokens, width)


def measure(step):
    seconds = []
    for i in range(WARM_UP + STEPS):
        start = time.perf_counter()
        step()
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def torch_cases(model, batch, latent, tokens):
    cases = {}
    for layout in ("", " channels-last"):
        for precision in ("f32", "bf16"):
            unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
            memory = torch.channels_last if layout else torch.contiguous_format
            unet = unet.to(memory_format=memory)
            optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-6, foreach=True)
            x, t, text = inputs(unet, 2 * batch, latent, tokens)
            x = x.to(memory_format=memory)
            cast = lambda p=precision: torch.autocast("cpu", torch.bfloat16, enabled=p == "bf16")

            def train(unet=unet, optimizer=optimizer, x=x, t=t, text=text, cast=cast):
                with cast():
                    out = unet(x[:batch], t[:batch], text[:batch]).sample
                loss = ((out.float() - x[batch:]) ** 2).mean()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            @torch.no_grad()
            def sample(unet=unet, x=x, t=t, text=text, cast=cast):
                with cast():
                    unet(x, t, text)

            cases[f"torch {precision}{layout}"] = {"train-step": train, "sample": sample}
    return cases


def craft(a, kind, precision):
    """Median seconds of a step, or None where the processor cannot."""
    done = subprocess.run([
        a.craft, "-q", "--json", "--matmul-precision", precision, "bench", kind, "--model", a.model, "--batch",
        str(a.batch), "--height", str(a.size), "--width", str(a.size), "--steps", str(STEPS),
    ], capture_output=True, text=True)
    if done.returncode:
        return None
    return json.loads(done.stdout)["seconds_per_step"]["median"]


def compare_outputs(a, latent, tokens):
    unet = UNet2DConditionModel.from_pretrained(a.model / "unet", torch_dtype=torch.float32)
    x, t, text = inputs(unet, 2, latent, tokens)
    with tempfile.TemporaryDirectory() as folder:
        to, back = pathlib.Path(folder, "in.safetensors"), pathlib.Path(folder, "out.safetensors")
        save_file({"sample": x, "timestep": t, "encoder_hidden_states": text}, to)
        subprocess.run([a.craft, "-q", "forward", "--model", a.model, "--component", "unet", "--in", to, "--out", back],
                       check=True, stdout=subprocess.DEVNULL)
        with torch.no_grad():
            ours, theirs = load_file(back)["sample"], unet(x, t, text).sample
    return ((ours - theirs).norm() / theirs.norm()).item()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("--craft", type=pathlib.Path, default=pathlib.Path("target/release/craft"))
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--size", type=int, default=64, help="height and width of the pictures in pixels")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--out", type=pathlib.Path)
    a = p.parse_args()
    scale = 2 ** (len(json.loads((a.model / "vae/config.json").read_text())["block_out_channels"]) - 1)
    tokens = json.loads((a.model / "text_encoder/config.json").read_text())["max_position_embeddings"]
    latent = a.size // scale
    apart = compare_outputs(a, latent, tokens)
    print(f"one prediction: relative difference {apart:.1e}")
    if apart > 1e-4:
        sys.exit("the two programs do not do the same work")
    cases = torch_cases(a.model, a.batch, latent, tokens)
    found = {}
    for _ in range(a.rounds):
        for kind in ("train-step", "sample"):
            for name, steps in cases.items():
                found.setdefault((kind, name), []).append(measure(steps[kind]))
            for precision in ("f32", "bf16"):
                seconds = craft(a, kind, precision)
                if seconds is not None:
                    found.setdefault((kind, f"craft {precision}"), []).append(seconds)
    rows = {kind: {n: statistics.median(v) for (k, n), v in found.items() if k == kind} for kind in ("train-step", "sample")}
    for (kind, name), values in found.items():
        print(f"{kind:10} {name:24} {statistics.median(values):.4f} s ({min(values):.4f} to {max(values):.4f})")
    for kind, medians in rows.items():
        best = {q: min(v for n, v in medians.items() if n.startswith("torch") and q in n) for q in ("f32", "bf16", "")}
        for name in ("craft f32", "craft bf16"):
            if name in medians:
                ratio = {(q or "better"): round(b / medians[name], 2) for q, b in best.items()}
                print(f"{kind:10} {name}: times as fast as PyTorch's {ratio}")
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        name = f"vs-diffusers-batch{a.batch}-{a.size}px.json"
        (a.out / name).write_text(json.dumps({
            "command": f"tools/bench/vs_diffusers.py {a.model.name} --batch {a.batch} --size {a.size} --rounds {a.rounds}",
            "processor": platform.processor() or platform.machine(), "torch": torch.__version__,
            "torch_capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
            "diffusers": diffusers.__version__,
            "seconds": {f"{k} {n}": v for (k, n), v in found.items()},
        }, indent=1) + "\n")


if __name__ == "__main__":
    main()
