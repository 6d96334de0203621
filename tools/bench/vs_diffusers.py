"""The same work in PyTorch with diffusers and in `craft bench`, alternating, as ratios.

    python tools/bench/vs_diffusers.py MODEL --craft target/release/craft [--batch 32] [--size 64] [--rounds 5]
                                       [--unet 4m] [--kinds train-step sample] [--checkpointing] [--simd avx2] [--out DIR]

One round runs, one after another: a training step (forward, weighted squared error, backward, clipping, AdamW) and a sampling
step (forward of twice the batch, for guidance) in PyTorch f32, f32 channels-last, bf16 autocast and bf16 autocast channels-last,
and in craft f32 and, where the processor has it, bf16. Each side is a process of its own that ends before the other begins, so
that neither holds memory or threads while the other is measured; PyTorch's four ways share one, network and optimizer in turn.
Before timing, one prediction of both programs is compared. Prints medians of the rounds' medians with their smallest and
largest value, processor seconds of a step, peak memory (PyTorch's: the most of its four ways), and the ratio to PyTorch's best
of each precision and overall. With --out the raw figures go to DIR as JSON with machine, versions and command.

With --simd avx2 both sides keep to that instruction set, as on a processor that has no better one, and to f32.

With --checkpointing both sides compute each block once more in the backward pass instead of keeping what is inside.

--unet 4m takes MODEL with another denoiser of random weights: 4.3 M parameters, 0.76 GFLOP forward for a picture of 16 by 16
latents. Stable Diffusion 1.5 at its size: MODEL from `tools/full_size.py make --family sd15`.

Needs torch, diffusers, safetensors (checked with torch 2.15, diffusers 0.42). Nothing else in the project needs Python.
"""

import argparse
import gc
import json
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

KINDS = ("train-step", "sample")
WARM_UP = 1
# PyTorch's own loops, oneDNN and MKL.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
WAYS = [(precision, layout) for layout in ("", " channels-last") for precision in ("f32", "bf16")]


def inputs(config, batch, latent, tokens):
    import torch

    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    return normal(batch, config.in_channels, latent, latent), torch.randint(0, 1000, (batch,), generator=generator), \
        normal(batch, tokens, config.cross_attention_dim)


def load(model):
    import torch
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)


def step_of(unet, kind, precision, x, t, text):
    """One step as a function."""
    import torch

    cast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    if kind == "sample":
        @torch.no_grad()
        def sample():
            with cast():
                unet(x, t, text)

        return sample
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-6, foreach=True)
    batch = len(x) // 2

    def train():
        with cast():
            out = unet(x[:batch], t[:batch], text[:batch]).sample
        loss = ((out.float() - x[batch:]) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def torch_side(a, latent, tokens):
    """Median seconds and mean processor seconds of a step for each of PyTorch's ways, and versions: one line of JSON."""
    import diffusers
    import torch

    unet = load(a.model)
    if a.checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    x, t, text = inputs(unet.config, 2 * a.batch, latent, tokens)
    found = {}
    for precision, layout in WAYS:
        if a.simd and precision == "bf16":
            continue
        memory = torch.channels_last if layout else torch.contiguous_format
        unet = unet.to(memory_format=memory)
        step = step_of(unet, a.kinds[0], precision, x.to(memory_format=memory), t, text)
        for _ in range(WARM_UP):
            step()
        seconds, processor = [], time.process_time()
        for _ in range(a.steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        found[f"torch {precision}{layout}"] = {
            "seconds": statistics.median(seconds), "cpu": (time.process_time() - processor) / a.steps,
        }
        del step
        gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = {"torch": torch.__version__, "torch_capability": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(), "diffusers": diffusers.__version__}
    print(json.dumps({"found": {name: {**f, "peak": peak} for name, f in found.items()}, "versions": versions}))


def run_torch(a, kind):
    done = subprocess.run([
        sys.executable, __file__, a.model, "--side", "torch", "--kinds", kind, "--batch", str(a.batch), "--size", str(a.size),
        "--steps", str(a.steps), *(["--checkpointing"] if a.checkpointing else []), *(["--simd", a.simd] if a.simd else []),
    ], stdout=subprocess.PIPE, text=True, check=True, env=os.environ | (AVX2 if a.simd else {}))
    return json.loads(done.stdout.splitlines()[-1])


def run_craft(a, kind, precision):
    """A step of craft, or None where the processor cannot."""
    done = subprocess.run([
        a.craft, "-q", "--json", "--matmul-precision", precision, "bench", kind, "--model", a.model, "--batch",
        str(a.batch), "--height", str(a.size), "--width", str(a.size), "--steps", str(a.steps),
        *(["--gradient-checkpointing"] if a.checkpointing and kind == "train-step" else []), *(["--simd", a.simd] if a.simd else []),
    ], capture_output=True, text=True)
    if done.returncode:
        if precision == "bf16" and "no bf16" in done.stderr:
            return None
        sys.exit(f"craft bench failed:\n{done.stderr}")
    out = json.loads(done.stdout)
    return {"seconds": out["seconds_per_step"]["median"], "cpu": out["cpu_seconds_per_step"], "peak": out["peak_rss_bytes"]}


def predict(model, at):
    """PyTorch's prediction for the inputs of a file, to a file beside it."""
    import torch
    from safetensors.torch import load_file, save_file

    unet, x = load(model), load_file(at)
    with torch.no_grad():
        save_file({"sample": unet(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample}, at.with_name("torch"))


def compare_outputs(a, latent, tokens):
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    config = UNet2DConditionModel.load_config(a.model / "unet", return_unused_kwargs=False)
    x, t, text = inputs(argparse.Namespace(**config), 2, latent, tokens)
    with tempfile.TemporaryDirectory() as folder:
        to, back = pathlib.Path(folder, "in.safetensors"), pathlib.Path(folder, "out.safetensors")
        save_file({"sample": x, "timestep": t, "encoder_hidden_states": text}, to)
        subprocess.run([a.craft, "-q", "forward", "--model", a.model, "--component", "unet", "--in", to, "--out", back],
                       check=True, stdout=subprocess.DEVNULL)
        subprocess.run([sys.executable, __file__, a.model, "--side", "predict", "--at", to], check=True)
        ours, theirs = load_file(back)["sample"], load_file(to.with_name("torch"))["sample"]
    return ((ours - theirs).norm() / theirs.norm()).item()


def small_unet(model, folder):
    """A copy of a model's folder with the denoiser that --unet 4m asks for."""
    import torch
    from diffusers import UNet2DConditionModel

    to = pathlib.Path(folder, f"{model.name}-4m")
    shutil.copytree(model, to, ignore=lambda _, names: [n for n in names if n in ("unet", "rewards")])
    config = json.loads((model / "unet/config.json").read_text()) | {"block_out_channels": [80, 128]}
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config).save_pretrained(to / "unet")
    return to


def report(found):
    for (kind, name), runs in found.items():
        values = [run["seconds"] for run in runs]
        print(f"{kind:10} {name:24} {statistics.median(values):.4f} s ({min(values):.4f} to {max(values):.4f}), "
              f"{statistics.median(run['cpu'] for run in runs):.4f} processor seconds, {max(run['peak'] for run in runs) / 2**20:.0f} MiB")
    for kind in dict.fromkeys(kind for kind, _ in found):
        medians = {n: statistics.median(run["seconds"] for run in runs) for (k, n), runs in found.items() if k == kind}
        best = {q: min((v for n, v in medians.items() if n.startswith("torch") and q in n), default=None) for q in ("f32", "bf16", "")}
        for name in ("craft f32", "craft bf16"):
            if name in medians:
                ratio = {(q or "better"): round(b / medians[name], 2) for q, b in best.items() if b}
                print(f"{kind:10} {name}: times as fast as PyTorch's {ratio}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("--craft", type=pathlib.Path, default=pathlib.Path("target/release/craft"))
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--size", type=int, default=64, help="height and width of the pictures in pixels")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=4, help="steps of a round that count")
    p.add_argument("--unet", choices=["own", "4m"], default="own")
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--simd", choices=["avx2"])
    p.add_argument("--out", type=pathlib.Path)
    p.add_argument("--side", choices=["torch", "predict"], help=argparse.SUPPRESS)
    p.add_argument("--at", type=pathlib.Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side == "predict":
        return predict(a.model, a.at)
    scale = 2 ** (len(json.loads((a.model / "vae/config.json").read_text())["block_out_channels"]) - 1)
    tokens = json.loads((a.model / "text_encoder/config.json").read_text())["max_position_embeddings"]
    latent = a.size // scale
    if a.side == "torch":
        return torch_side(a, latent, tokens)
    with tempfile.TemporaryDirectory() as folder:
        if a.unet == "4m":
            a.model = small_unet(a.model, folder)
        measure(a, latent, tokens)


def measure(a, latent, tokens):
    apart = compare_outputs(a, latent, tokens)
    print(f"one prediction: relative difference {apart:.1e}", flush=True)
    if not apart <= 1e-4:
        sys.exit("the two programs do not do the same work")
    found, versions = {}, {}
    for _ in range(a.rounds):
        for kind in a.kinds:
            theirs = run_torch(a, kind)
            versions = theirs["versions"]
            ours = {f"craft {p}": run_craft(a, kind, p) for p in (["f32"] if a.simd else ["f32", "bf16"])}
            for name, run in (theirs["found"] | ours).items():
                if run is not None:
                    found.setdefault((kind, name), []).append(run)
    report(found)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        what = "" if set(a.kinds) == set(KINDS) else "-" + a.kinds[0]
        what += "-checkpointing" if a.checkpointing else ""
        what += f"-{a.simd}" if a.simd else ""
        name = f"vs-diffusers-{a.model.name}-batch{a.batch}-{a.size}px{what}.json"
        (a.out / name).write_text(json.dumps({
            "command": f"tools/bench/vs_diffusers.py {a.model.name} --batch {a.batch} --size {a.size} --rounds {a.rounds} "
                       f"--steps {a.steps} --kinds {' '.join(a.kinds)}{' --checkpointing' if a.checkpointing else ''}"
                       f"{f' --simd {a.simd}' if a.simd else ''}",
            "processor": platform.processor() or platform.machine(), **versions,
            "runs": {f"{k} {n}": v for (k, n), v in found.items()},
        }, indent=1) + "\n")


if __name__ == "__main__":
    main()
