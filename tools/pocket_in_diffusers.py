"""Draws the same pictures with diffusers and with craft, and prints the largest differences.

    python tools/pocket_in_diffusers.py assets/pocket --craft target/release/craft

Needs torch, diffusers, transformers, safetensors, numpy and Pillow (checked with torch 2.15,
diffusers 0.42, transformers 5.23). Both sides start from the same latents and draw with DDIM, 8
steps, guidance scale 4, in f32. Leaves with status 1 when the pictures differ by more than the
given limits. Nothing else in the project needs Python.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

PROMPTS = [
    "a red circle",
    "two small blue squares",
    "a green triangle above a yellow star, crisp and vivid",
    "",
]
STEPS = 8
GUIDANCE_SCALE = 4.0


@torch.no_grad()
def draw_with_diffusers(folder, prompts, latents):
    """Final latents [B,4,h,w] and pictures [B,H,W,3] of bytes."""
    options = dict(torch_dtype=torch.float32, low_cpu_mem_usage=False)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", **options).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae", **options).eval()
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")

    def encode(texts):
        tokens = tokenizer(texts, padding="max_length", truncation=True,
                           max_length=tokenizer.model_max_length, return_tensors="pt")
        return encoder(tokens.input_ids).last_hidden_state

    context = torch.cat([encode([""] * len(prompts)), encode(prompts)])
    scheduler.set_timesteps(STEPS)
    x = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([x, x]), t)
        without, given = unet(both, t, encoder_hidden_states=context).sample.chunk(2)
        x = scheduler.step(without + GUIDANCE_SCALE * (given - without), t, x).prev_sample
    shift = vae.config.shift_factor or 0.0
    images = vae.decode(x / vae.config.scaling_factor + shift).sample
    images = ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return x, images.numpy()


def draw_with_craft(craft, folder, prompts, latents):
    """The same by the command line."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        save_file({"latents": latents}, scratch / "in.safetensors")
        command = [craft, "sample", "--model", folder, "--scheduler", "ddim", "--steps", STEPS,
                   "--guidance-scale", GUIDANCE_SCALE, "--latents", scratch / "in.safetensors",
                   "--dump-latents", scratch / "out.safetensors", "--output", scratch / "pictures"]
        for prompt in prompts:
            command += ["--prompt", prompt]
        subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
        files = sorted((scratch / "pictures").glob("*.png"))
        images = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
        return load_file(scratch / "out.safetensors")["latents"], images


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="model folder in the diffusers layout")
    parser.add_argument("--craft", default="craft", help="the craft binary")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial latents")
    parser.add_argument("--latent-limit", type=float, default=1e-3, help="largest allowed difference of latents")
    parser.add_argument("--pixel-limit", type=int, default=2, help="largest allowed difference of bytes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    unet = UNet2DConditionModel.load_config(args.model / "unet")
    side = unet["sample_size"]
    generator = torch.Generator().manual_seed(args.seed)
    latents = torch.randn(len(PROMPTS), unet["in_channels"], side, side, generator=generator)

    print(f"{len(PROMPTS)} pictures, DDIM, {STEPS} steps, guidance scale {GUIDANCE_SCALE:g}")
    expected, expected_images = draw_with_diffusers(args.model, PROMPTS, latents)
    found, images = draw_with_craft(args.craft, args.model, PROMPTS, latents)
    worst = (found - expected).abs().max().item()
    pixels = np.abs(images.astype(int) - expected_images.astype(int))
    print(f"latents: largest difference {worst:.2e} (values up to {expected.abs().max():.2f})")
    print(f"pixels: largest difference {pixels.max()} of 255, {np.mean(pixels > 0):.3%} of the values differ")
    # Not-a-number fails too.
    if not worst <= args.latent_limit or pixels.max() > args.pixel_limit:
        sys.exit("the pictures differ by more than the limits")


main()
