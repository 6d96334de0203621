"""Stable Diffusion 1.5 as it is published, with random values at full size, through a whole run and back into diffusers.

    python tools/published_layout_run.py --craft target/release/craft --work /tmp/published [--size 256] [--format f32]

Makes a folder with exactly the published names, shapes, number formats and configs (fixtures/layouts): old names of attention
in the autoencoder, `position_ids` in the text encoder, the PNDM scheduler's file, CLIP's whole vocabulary. Then `craft run` on
two prompts with rewards that need no weights and one step of LoRA, `craft export` to a folder and a single file, and a picture
of each drawn by diffusers and by craft from the same noise. Prints one JSON line with seconds, memory and differences.

Needs 20 GB of disk, 10 GB of memory, torch, diffusers, transformers, safetensors (checked with torch 2.15, diffusers 0.42.1,
transformers 5.24).
"""

import argparse
import gc
import gzip
import itertools
import json
import pathlib
import re
import resource
import shutil
import subprocess
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

ROOT = pathlib.Path(__file__).parent.parent
FORMATS = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}
PROMPT = "a big red circle! wow"
RECIPE = """
seed = 1
[model]
path = "model"
[prompts]
train = "train.txt"
eval = "eval.txt"
[expand]
templates = "pocket"
variants = 2
[generate]
steps = 2
guidance_scale = 5.0
batch = 2
height = {size}
width = {size}
[[rewards]]
name = "colorfulness"
[[rewards]]
name = "jpeg-size"
role = "held-out"
[select]
max_samples = 2
[train]
mode = "lora"
steps = 1
batch = 1
learning_rate = 1e-3
[train.lora]
rank = 4
[evaluate]
samples_per_prompt = 1
bootstrap = 100
"""


def expand(pattern):
    """All names of a pattern with {a,b} and {0..3}."""
    parts = []
    for text in re.split(r"(\{[^}]*\})", pattern):
        if not text.startswith("{"):
            parts.append([text])
        elif ".." in text:
            first, last = map(int, text[1:-1].split(".."))
            parts.append([str(n) for n in range(first, last + 1)])
        else:
            parts.append(text[1:-1].split(","))
    return map("".join, itertools.product(*parts))


def published(entry):
    """Name, number format and shape of every tensor of a weight file."""
    tensors = {}
    for prefix, name, dtype in entry["parts"]:
        for line in (ROOT / f"fixtures/layouts/tensors/{name}.txt").read_text().splitlines():
            shape, pattern = line.split(" ", 1)
            tensors |= {prefix + n: (dtype, json.loads(shape)) for n in expand(pattern)}
    return tensors | {n: tuple(t) for n, t in entry.get("extra", {}).items()}


def tokenizer(folder):
    merges = gzip.open(ROOT / "assets/clip/merges.txt.gz", "rt").read()
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    letters = list(map(chr, plain)) + [chr(256 + i) for i in range(256 - len(plain))]
    pairs = [line.replace(" ", "") for line in merges.splitlines()[1:] if line]
    tokens = letters + [c + "</w>" for c in letters] + pairs + ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == 49408
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text(merges)


def make(out, variant):
    """The published folder; values as the classes initialise them, so that pictures stay finite."""
    facts = json.loads((ROOT / "fixtures/layouts/models/sd15.json").read_text())
    for path, config in facts["texts"].items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(json.dumps(config, indent=2) + "\n")
    tokenizer(out / "tokenizer")
    torch.manual_seed(0)
    classes = {
        "unet": lambda c: UNet2DConditionModel.from_config(c), "vae": lambda c: AutoencoderKL.from_config(c),
        "text_encoder": lambda c: CLIPTextModel(CLIPTextConfig.from_dict(c)),
    }
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    for part, build in classes.items():
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        path = f"{part}/{stem}{variant}.safetensors"
        values = build(facts["texts"][f"{part}/config.json"]).state_dict()
        tensors = {}
        for name, (dtype, shape) in published(facts["weights"][path]).items():
            if name.endswith("position_ids"):
                tensors[name] = torch.arange(77).reshape(1, 77)
                continue
            key = re.sub(r"(\.attentions\..*)\.(query|key|value|proj_attn)\.", lambda m: f"{m[1]}.{old[m[2]]}.", name)
            value = values.get(key, values.get(key.removeprefix("text_model.")))
            assert list(value.shape) == shape, name
            tensors[name] = value.to(FORMATS[dtype]).contiguous()
        assert len(values) == len(tensors) - sum(n.endswith("position_ids") for n in tensors)
        save_file(tensors, out / path, metadata={"format": "pt"})
        length = facts["weights"][path]["bytes"]
        found = (out / path).stat().st_size
        assert abs(found - length) <= 8, (path, found, length)


def craft(args, *command):
    start = time.time()
    done = subprocess.run([args.craft, *command], cwd=args.work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.time() - start


def difference(args, model, path, *more, single=False):
    """Final latents of craft and of diffusers from the same noise, two steps of DDIM; one model in memory at a time."""
    size = str(args.size)
    craft(args, "sample", "--model", model, *more, "--prompt", PROMPT, "--steps", "2", "--guidance-scale", "5", "--seed", "3", "--rng",
          "torch", "--height", size, "--width", size, "--dump-latents", "latents.safetensors", "--output", "a.png")
    found = load_file(args.work / "latents.safetensors")["latents"]
    pipe = load(args.work / path, single)
    expected = pipe(PROMPT, num_inference_steps=2, guidance_scale=5, generator=torch.Generator().manual_seed(3), height=args.size,
                    width=args.size, output_type="latent").images
    del pipe
    gc.collect()
    return ((found - expected).norm() / expected.norm()).item()


def changed(a, b):
    """Tensors that differ between two weight files."""
    with safe_open(a, "pt") as a, safe_open(b, "pt") as b:
        assert set(a.keys()) == set(b.keys())
        return sum(not torch.equal(a.get_tensor(k).float(), b.get_tensor(k).float()) for k in a.keys())


def load(path, single=False):
    cls = StableDiffusionPipeline
    options = dict(torch_dtype=torch.float32, safety_checker=None)
    pipe = cls.from_single_file(path, config=str(path.parent / "tuned"), **options) if single else cls.from_pretrained(path, **options)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--craft", type=lambda p: str(pathlib.Path(p).resolve()), required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--again", action="store_true", help="take the model and the run that are in --work already")
    parser.add_argument("--format", choices=["f32", "f16"], default="f32", help="of the published files; 16 bits are the variant fp16")
    args = parser.parse_args()
    args.work = args.work.resolve()
    variant = "" if args.format == "f32" else ".fp16"
    figures = {"size": args.size, "format": args.format}
    if not args.again:
        shutil.rmtree(args.work, ignore_errors=True)
        args.work.mkdir(parents=True)
        make(args.work / "model", variant)
        (args.work / "train.txt").write_text("a red circle\na blue square\n")
        (args.work / "eval.txt").write_text("a green star\n")
        (args.work / "recipe.toml").write_text(RECIPE.format(size=args.size))
        figures["run_seconds"] = craft(args, "run", "recipe.toml", "--out", "run")
        figures["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    shutil.rmtree(args.work / "tuned", ignore_errors=True)
    (args.work / "tuned.safetensors").unlink(missing_ok=True)
    figures["export_seconds"] = craft(args, "export", "run", "--format", "diffusers", "--out", "tuned")
    craft(args, "export", "run", "--format", "single-file", "--out", "tuned.safetensors")
    if args.format == "f32":
        figures["base_against_diffusers"] = difference(args, "model", "model")
    figures["export_against_diffusers"] = difference(args, "tuned", "tuned")
    config = ["--model-config", "tuned"]
    figures["single_file_against_diffusers"] = difference(args, "tuned.safetensors", "tuned.safetensors", *config, single=True)
    unet = "unet/diffusion_pytorch_model"
    figures["unet_tensors_changed"] = changed(args.work / f"model/{unet}{variant}.safetensors", args.work / f"tuned/{unet}.safetensors")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
