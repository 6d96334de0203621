"""Draws the same pictures with diffusers' own pipelines and with `craft sample --rng torch`.

    python tools/families_vs_diffusers.py --craft target/release/craft [--seed 0] [--steps 10]

Makes small models with random weights of the three families (Stable Diffusion 1.5, 2.1 with v-prediction,
SDXL), runs every scheduler in both programs from the same seed, and prints the relative difference of the
final latents and the largest of the pictures in grey levels of 255. Leaves with status 1 when one is above
the limits (1e-3, 2). Needs torch, diffusers, transformers, safetensors, numpy and Pillow (checked with torch
2.15, diffusers 0.42, transformers 5.23). Nothing else in the project needs Python.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import (
    AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer,
)

POCKET = pathlib.Path(__file__).parent.parent / "assets/pocket"
SCHEDULERS = {
    "ddim": (DDIMScheduler, {}), "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "dpm++2m": (DPMSolverMultistepScheduler, {}),
    "euler --karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "dpm++2m --karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}


def tokenizer(pad):
    made = CLIPTokenizer.from_pretrained(POCKET / "tokenizer", pad_token=pad)
    made.model_max_length = 77
    return made


def text_config(words, **changes):
    return CLIPTextConfig(**(dict(
        vocab_size=words, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=77, projection_dim=32,
        bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1,
    ) | changes))


def vae():
    return AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8,
        sample_size=64, scaling_factor=0.18215,
    )


def unet(cross, **changes):
    return UNet2DConditionModel(**(dict(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=cross,
        attention_head_dim=8,
    ) | changes))


BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def make(family, folder):
    """Writes a random model of a family and returns diffusers' pipeline of it, loaded back."""
    first = tokenizer("!" if family == "sd21" else "<|endoftext|>")
    words = len(first)
    safe = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if family == "sd15":
        pipe = StableDiffusionPipeline(
            vae=vae(), text_encoder=CLIPTextModel(text_config(words, hidden_act="quick_gelu")),
            tokenizer=first, unet=unet(32), **safe,
            scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
        )
        # As in the file of Stable Diffusion 1.5.
        pipe.scheduler.register_to_config(clip_sample=False)
    elif family == "sd21":
        pipe = StableDiffusionPipeline(
            vae=vae(), text_encoder=CLIPTextModel(text_config(words, hidden_act="gelu", pad_token_id=0)),
            tokenizer=first, **safe,
            unet=unet(32, attention_head_dim=[4, 8], use_linear_projection=True, upcast_attention=True),
            scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                    prediction_type="v_prediction"),
        )
    else:
        second = CLIPTextModelWithProjection(text_config(
            words, hidden_size=48, num_attention_heads=6, hidden_act="gelu", projection_dim=48))
        pipe = StableDiffusionXLPipeline(
            vae=vae(), text_encoder=CLIPTextModel(text_config(words, hidden_act="quick_gelu")),
            text_encoder_2=second, tokenizer=first, tokenizer_2=tokenizer("!"),
            unet=unet(80, attention_head_dim=[4, 8], use_linear_projection=True,
                      addition_embed_type="text_time", addition_time_embed_dim=8,
                      projection_class_embeddings_input_dim=48 + 6 * 8,
                      transformer_layers_per_block=[1, 2],
                      down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                      up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")),
            scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        )
        pipe.scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False)
    pipe.save_pretrained(folder)
    return type(pipe).from_pretrained(folder, **(safe if family != "sdxl" else {}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--craft", type=pathlib.Path, default=pathlib.Path("target/release/craft"))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--keep", type=pathlib.Path, help="folder for the models, which are thrown away otherwise")
    a = p.parse_args()
    root = a.keep or pathlib.Path(tempfile.mkdtemp())
    prompt, negative = "a large red circle above a tiny blue square", "blurry"
    worst = [0.0, 0]
    for family in ("sd15", "sd21", "sdxl"):
        torch.manual_seed(a.seed)
        folder = root / family
        pipe = make(family, folder)
        pipe.set_progress_bar_config(disable=True)
        given = pipe.scheduler.config
        for name, (scheduler, changes) in SCHEDULERS.items():
            pipe.scheduler = scheduler.from_config(given, **changes)
            common = dict(num_inference_steps=a.steps, guidance_scale=5.0, height=32, width=48)
            draw = lambda kind: pipe(
                prompt, negative_prompt=negative, output_type=kind,
                generator=torch.Generator().manual_seed(a.seed), **common).images
            latents, picture = draw("latent"), np.asarray(draw("pil")[0]).astype(int)
            which, *flags = name.split()
            dumped, png = root / "latents.safetensors", root / "picture.png"
            subprocess.run([
                a.craft, "-q", "sample", "--model", folder, "--prompt", prompt, "--negative-prompt", negative,
                "--steps", str(a.steps), "--guidance-scale", "5", "--scheduler", which, *flags, "--rng", "torch",
                "--seed", str(a.seed), "--height", "32", "--width", "48", "--dump-latents", dumped,
                "--output", png,
            ], check=True, stdout=subprocess.DEVNULL)
            ours = load_file(dumped)["latents"]
            relative = ((ours - latents).norm() / latents.norm()).item()
            levels = np.abs(np.asarray(Image.open(png)).astype(int) - picture).max()
            print(f"{family:5} {name:17} latents {relative:.1e}  picture {levels}/255", flush=True)
            worst = [max(worst[0], relative), max(worst[1], levels)]
    if not a.keep:
        shutil.rmtree(root)
    ok = worst[0] <= 1e-3 and worst[1] <= 2
    print(json.dumps({"latents": worst[0], "picture": int(worst[1]), "ok": bool(ok)}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
