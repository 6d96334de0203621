"""Single-file checkpoints of small random models, in diffusers and in craft.

    python tools/single_file_vs_diffusers.py --craft target/release/craft [--seed 0] [--out DIR]

Makes small models of the three families (Stable Diffusion 1 and 2, SDXL), writes each as a folder and as one file in
the names of the original code, and compares: diffusers' from_single_file with the folder (every tensor), and `craft
sample` on the file, with and without the folder's configs, with `craft sample` on the folder (every pixel). With
--run it also tunes each model for two steps, exports it with `craft export --format single-file`, and compares what
diffusers reads from that file with the tuned folder. Leaves with status 1 on any difference.
Needs torch, diffusers, transformers, safetensors and Pillow (checked with torch 2.15, diffusers 0.42,
transformers 5.24). Nothing else in the project needs Python.
"""

import argparse
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import (
    AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils as convert
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = pathlib.Path(__file__).parent.parent
POCKET = ROOT / "assets/pocket"
spec = importlib.util.spec_from_file_location("golden", ROOT / "fixtures/single_file/make.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
UNETS = {
    "sd1": dict(block_out_channels=(32, 64, 64), attention_head_dim=8, cross_attention_dim=64),
    "sd2": dict(block_out_channels=(64, 128, 128), attention_head_dim=[1, 2, 2], cross_attention_dim=64,
                use_linear_projection=True),
    "sdxl": dict(block_out_channels=(32, 64, 128), attention_head_dim=[1, 1, 2], cross_attention_dim=192,
                 transformer_layers_per_block=[1, 2, 3], use_linear_projection=True,
                 addition_embed_type="text_time", addition_time_embed_dim=8,
                 projection_class_embeddings_input_dim=6 * 8 + 64),
}
SHAPES = {
    "sd1": dict(mult=3, attention={0, 1}, depth=[1, 1, 1]),
    "sd2": dict(mult=3, attention={0, 1}, depth=[1, 1, 1]),
    "sdxl": dict(mult=3, attention={1, 2}, depth=[0, 2, 3], label=True),
}
TEXTS = {f: golden.FAMILIES[f]["text"] for f in UNETS}


def tokenizer(pad):
    made = CLIPTokenizer.from_pretrained(POCKET / "tokenizer", pad_token=pad)
    made.model_max_length = 77
    return made


def text_model(kind, words, width, layers):
    config = CLIPTextConfig(
        vocab_size=words, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=77, projection_dim=64,
        hidden_act="quick_gelu" if kind == "clip" else "gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return (CLIPTextModelWithProjection if layers == 3 else CLIPTextModel)(config)


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            scale = 0.2 if p.ndim == 1 else p[0].numel() ** -0.5
            p.copy_(noise * scale + (1 if p.ndim == 1 and "norm" in name and name.endswith("weight") else 0))
    return model.eval()


def pipeline(family):
    shape = SHAPES[family]
    down = [(CROSS if level in shape["attention"] else PLAIN)[0] for level in range(3)]
    up = [(CROSS if level in shape["attention"] else PLAIN)[1] for level in reversed(range(3))]
    unet = UNet2DConditionModel(sample_size=8, layers_per_block=2, down_block_types=down, up_block_types=up, **UNETS[family])
    vae = AutoencoderKL(block_out_channels=(32, 64), layers_per_block=2, sample_size=64, latent_channels=4,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                        scaling_factor=0.13025 if family == "sdxl" else 0.18215)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    first = tokenizer("!" if family == "sd2" else "<|endoftext|>")
    kinds = [kind for kind, _ in TEXTS[family].values()]
    parts = dict(unet=randomise(unet), vae=randomise(vae), scheduler=scheduler, tokenizer=first,
                 text_encoder=randomise(text_model(kinds[0], len(first), 64, 2)))
    if family == "sdxl":
        return StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer("!"),
                                         text_encoder_2=randomise(text_model(kinds[1], len(first), 128, 3)))
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def states(pipe):
    """Tensors by network; names of text encoders as older transformers write them."""
    old = lambda k: k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}"
    found = {}
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        network = getattr(pipe, name, None)
        if network is not None:
            tensors = {k: v for k, v in network.state_dict().items() if "position_ids" not in k}
            found[name] = {old(k): v for k, v in tensors.items()} if name.startswith("text") else tensors
    return found


def single_file(family, pipe):
    """The model's tensors under the original names, by diffusers' own pairs read backwards."""
    f, state = SHAPES[family], states(pipe)
    config = dict(down_block_types=["x"] * 2, up_block_types=["x"] * 2)
    pairs = [("unet", p) for p in golden.pairs(golden.unet(f), lambda c: convert.convert_ldm_unet_checkpoint(c, golden.unet_config(f)))]
    pairs += [("vae", p) for p in golden.pairs(golden.vae(2), lambda c: convert.convert_ldm_vae_checkpoint(c, config))]
    for part, (prefix, (kind, _)) in zip(("text_encoder", "text_encoder_2"), TEXTS[family].items()):
        keys = golden.text(prefix, kind, 3)
        rename = (lambda c: convert.convert_ldm_clip_checkpoint(c)) if kind == "clip" else (
            lambda c: convert.convert_open_clip_checkpoint(golden.TextModel, c, prefix=prefix))
        pairs += [(part, p) for p in golden.pairs(keys, rename)]
    out, thirds, used = {}, {}, 0
    for part, (old, new, take) in pairs:
        if new not in state[part]:
            continue
        value, used = state[part][new], used + 1
        if take.startswith("third"):
            thirds.setdefault(old, {})[int(take[-1])] = value
        else:
            out[old] = {"whole": lambda v: v, "square": lambda v: v[:, :, None, None], "transposed": lambda v: v.T}[take](value)
    out |= {old: torch.cat([parts[i] for i in range(3)]) for old, parts in thirds.items()}
    assert used == sum(len(s) for s in state.values()), "a tensor has no place"
    return {k: v.contiguous().clone() for k, v in out.items()}


def differing(a, b):
    a, b = states(a), states(b)
    names = [f"{part}.{k}" for part in a for k in a[part].keys() ^ b[part].keys()]
    return names + [f"{part}.{k}" for part in a for k in a[part].keys() & b[part].keys() if not torch.equal(a[part][k], b[part][k])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--craft", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--run", action="store_true")
    args = parser.parse_args()
    out = args.out or pathlib.Path(tempfile.mkdtemp())
    bad = 0

    def check(what, good):
        nonlocal bad
        bad += not good
        print(f"{'same     ' if good else 'DIFFERENT'} {what}")

    def craft(*words):
        subprocess.run([args.craft, "-q", *map(str, words)], check=True)

    def drawn(model, *more):
        png = out / "a.png"
        craft("sample", "--model", model, *more, "--prompt", "a red circle", "--steps", 2, "--seed", 5,
              "--height", 16, "--width", 16, "--output", png)
        return np.asarray(Image.open(png))

    for family in UNETS:
        torch.manual_seed(args.seed)
        folder, file, words = out / family, out / f"{family}.safetensors", out / f"{family}-tokenizers"
        pipe = pipeline(family)
        pipe.save_pretrained(folder)
        save_file(single_file(family, pipe), file)
        for name in ("tokenizer", "tokenizer_2"):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, words / name, dirs_exist_ok=True)
        back = type(pipe).from_single_file(str(file), config=str(folder), local_files_only=True)
        check(f"{family}: from_single_file reads the folder's tensors {differing(pipe, back)[:3]}", not differing(pipe, back))
        picture = drawn(folder)
        check(f"{family}: craft draws the same from the file, configs given", np.array_equal(drawn(file, "--model-config", folder), picture))
        check(f"{family}: craft draws the same from the file, configs found", np.array_equal(drawn(file, "--model-config", words), picture))
        if args.run:
            recipe = out / f"{family}.toml"
            recipe.write_text(RECIPE.format(model=file.name, config=folder.name))
            craft("run", recipe, "--out", out / f"{family}-run")
            tuned, exported = out / f"{family}-run/aligned", out / f"{family}-tuned.safetensors"
            craft("export", out / f"{family}-run", "--format", "single-file", "--out", exported)
            a = type(pipe).from_single_file(str(exported), config=str(tuned), local_files_only=True)
            b = type(pipe).from_pretrained(tuned)
            check(f"{family}: the exported file has the tuned folder's tensors {differing(a, b)[:3]}", not differing(a, b))
            check(f"{family}: tuning changed something", bool(differing(b, pipe)))
    print(out)
    sys.exit(bad > 0)


RECIPE = """
seed = 1
[model]
path = "{model}"
config = "{config}"
[prompts]
source = "pocket"
train_count = 6
eval_count = 4
[expand]
templates = "pocket"
variants = 3
[generate]
steps = 2
height = 64
width = 64
guidance_scale = 2.0
[[rewards]]
name = "pocket-hps"
[[rewards]]
name = "pocket-ir"
role = "held-out"
[select]
max_samples = 6
[train]
steps = 2
batch = 2
learning_rate = 1e-3
[evaluate]
samples_per_prompt = 1
bootstrap = 100
"""

if __name__ == "__main__":
    main()
