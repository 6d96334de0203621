"""Draws with adapters as PEFT and diffusers of all ages save them, with diffusers and with `craft sample --lora`.

    python tools/adapters_vs_peft.py --craft target/release/craft

Small random models of Stable Diffusion 1.5 and SDXL (`tools/families_vs_diffusers.py`), random adapters written by
PEFT's `save_pretrained` (alpha, rank-stabilised, patterns of alpha and rank, text encoders, `.bin`) and in the names of
older diffusers, the same noise. Prints the relative difference of the final latents and leaves with status 1 above 1e-3.
Needs torch, diffusers, peft, transformers and safetensors (checked with torch 2.15, diffusers 0.42, peft 0.21,
transformers 5.24). Nothing else in the project needs Python.
"""

import argparse
import copy
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import DDIMScheduler
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
spec = importlib.util.spec_from_file_location("families", HERE / "families_vs_diffusers.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)
ATTENTION, TEXT = ["to_q", "to_k", "to_v", "to_out.0"], ["q_proj", "v_proj", "fc1"]
CASES = {
    "alpha 16, rank 4": dict(lora_alpha=16),
    # A larger alpha makes a random model that in PyTorch itself is 2e-3 apart in f32 and f64.
    "rank-stabilised": dict(lora_alpha=5, use_rslora=True),
    "patterns": dict(lora_alpha=2, alpha_pattern={"attn1.to_q": 12, "down_blocks.*to_v": 6},
                     rank_pattern={"attn2.to_k": 2, "attn1.to_v": 3}),
    "everything": dict(lora_alpha=3, target_modules="all-linear"),
    "convolutions": dict(lora_alpha=8, target_modules=["conv1", "conv_shortcut", "proj_in"]),
}


def adapt(model, seed, **changes):
    torch.manual_seed(seed)
    config = LoraConfig(**(dict(r=4, target_modules=ATTENTION, init_lora_weights=False) | changes))
    return get_peft_model(copy.deepcopy(model), config)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--craft", default="target/release/craft")
    a = p.parse_args()
    root = pathlib.Path(tempfile.mkdtemp())
    worst = 0.0

    def compare(name, pipe, folder, *loras):
        nonlocal worst
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        latents = pipe("a large red circle", negative_prompt="", num_inference_steps=3, guidance_scale=5.0, height=32,
                       width=48, output_type="latent", generator=torch.Generator().manual_seed(0)).images
        given = [word for lora in loras for word in ("--lora", str(lora))]
        subprocess.run([
            a.craft, "-q", "sample", "--model", folder, "--prompt", "a large red circle", "--negative-prompt", "", "--steps",
            "3", "--guidance-scale", "5", "--scheduler", "ddim", "--rng", "torch", "--seed", "0", "--height", "32", "--width",
            "48", "--dump-latents", root / "l.safetensors", "--output", root / "p.png", *given,
        ], check=True, stdout=subprocess.DEVNULL)
        ours = load_file(root / "l.safetensors")["latents"]
        relative = ((ours - latents).norm() / latents.norm()).item()
        worst = max(worst, relative)
        print(f"{folder.name:5} {name:34} {relative:.1e}", flush=True)

    for family in ("sd15", "sdxl"):
        torch.manual_seed(0)
        folder = root / family
        pipe = families.make(family, folder)
        unet = pipe.unet
        compare("no adapter", pipe, folder)
        for name, changes in CASES.items():
            saved = root / f"{family}-{name.replace(' ', '-')}"
            adapt(unet, 1, **changes).save_pretrained(saved)
            pipe.unet = PeftModel.from_pretrained(copy.deepcopy(unet), saved).merge_and_unload()
            compare(f"PEFT folder: {name}", pipe, folder, saved)
            compare(f"PEFT file: {name}", pipe, folder, saved / "adapter_model.safetensors")
        saved = root / f"{family}-bin"
        adapt(unet, 1, lora_alpha=16).save_pretrained(saved, safe_serialization=False)
        pipe.unet = PeftModel.from_pretrained(copy.deepcopy(unet), saved).merge_and_unload()
        compare("PEFT .bin", pipe, folder, saved)
        pipe.unet = unet
        for name in ("text_encoder", "text_encoder_2"):
            text = getattr(pipe, name, None)
            if text is None:
                continue
            saved = root / f"{family}-{name}"
            adapt(text, 2, lora_alpha=16, target_modules=TEXT).save_pretrained(saved)
            setattr(pipe, name, PeftModel.from_pretrained(copy.deepcopy(text), saved).merge_and_unload())
            compare(f"PEFT folder: {name}", pipe, folder, saved)
            setattr(pipe, name, text)
        # Attention processors: up · down is added as it is.
        torch.manual_seed(3)
        old, merged = {}, copy.deepcopy(unet)
        for name, weight in merged.named_parameters():
            for projection in ATTENTION:
                if name.endswith(f".{projection}.weight"):
                    down, up = torch.randn(4, weight.shape[1]) * 0.3, torch.randn(weight.shape[0], 4) * 0.3
                    weight.data += up @ down
                    key = name.removesuffix(f".{projection}.weight") + f".processor.{projection.removesuffix('.0')}_lora"
                    old |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
        pipe.unet = merged
        for prefix in ("", "unet."):
            tensors = {prefix + k: v for k, v in old.items()}
            save_file(tensors, root / "o.safetensors")
            torch.save(tensors, root / "o.bin")
            for file in ("o.safetensors", "o.bin"):
                compare(f"processors, prefix `{prefix}`, {file}", pipe, folder, root / file)
        pipe.unet = unet
    print(json.dumps({"worst": worst, "ok": worst <= 1e-3}))
    sys.exit(0 if worst <= 1e-3 else 1)


if __name__ == "__main__":
    main()
