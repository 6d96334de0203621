"""Model folders as older and other programs write them, drawn with diffusers and with `craft sample`.

    python tools/folders_vs_diffusers.py --craft target/release/craft

Takes the small random models of families_vs_diffusers.py and gives them what published folders have: the
autoencoder's names of before diffusers 0.18 (also in `.bin` and as 1x1 convolutions), exclamation marks in
prompts, tokens of textual inversion in old and new files, weights in fp8, a tokenizer of one file. Prints the
relative difference of the final latents from the same noise, and for denoisers of other channels what craft
says. Leaves with status 1 when a difference is above 1e-3 or a refusal is missing. Needs what
families_vs_diffusers.py needs (checked with torch 2.15, diffusers 0.42, transformers 5.24).
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

import families_vs_diffusers as families

PROMPT = "a large red circle above a tiny blue square"
MARKS = "a big red circle! wow!! amazing"
OLD = ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn."))
WEIGHTS = "diffusion_pytorch_model.safetensors"
BIN = "diffusion_pytorch_model.bin"
META = {"format": "pt"}


def theirs(folder, prompt):
    xl = (folder / "text_encoder_2").is_dir()
    pipe = (StableDiffusionXLPipeline if xl else StableDiffusionPipeline).from_pretrained(
        folder, **({} if xl else {"safety_checker": None}))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe(prompt, num_inference_steps=3, guidance_scale=5.0, height=32, width=48, output_type="latent",
                generator=torch.Generator().manual_seed(0)).images


class Checks:
    def __init__(self, craft, root):
        self.craft, self.root, self.ok = craft, root, True

    def ours(self, folder, prompt):
        dumped = self.root / "latents.safetensors"
        done = subprocess.run(
            [self.craft, "-q", "sample", "--model", folder, "--prompt", prompt, "--steps", "3", "--seed", "0",
             "--guidance-scale", "5", "--height", "32", "--width", "48", "--rng", "torch", "--scheduler", "ddim",
             "--dump-latents", dumped, "--output", self.root / "picture.png"], capture_output=True, text=True)
        return load_file(dumped)["latents"] if done.returncode == 0 else (done.returncode, done.stderr.strip())

    def same(self, what, folder, prompt=PROMPT, wanted=None):
        wanted = theirs(folder, prompt) if wanted is None else wanted
        found = self.ours(folder, prompt)
        if isinstance(found, tuple):
            print(f"{what}: {found[1]}", flush=True)
            self.ok = False
            return
        relative = ((found - wanted).norm() / wanted.norm()).item()
        print(f"{what}: {relative:.1e}", flush=True)
        self.ok &= relative <= 1e-3

    def refused(self, what, folder, word):
        found = self.ours(folder, PROMPT)
        good = isinstance(found, tuple) and found[0] == 3 and word in found[1]
        print(f"{what}: {found[1] if isinstance(found, tuple) else 'drawn'}", flush=True)
        self.ok &= good

    def copy(self, of, name):
        return pathlib.Path(shutil.copytree(of, self.root / name))


def aged(name):
    if ".attentions." in name:
        for new, old in OLD:
            name = name.replace(new, old)
    return name


def textual_inversion(checks, base, listed):
    folder = checks.copy(base, f"inversion-{listed}")
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(families.POCKET / "tokenizer", folder / "tokenizer")
    path = folder / "tokenizer/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 77}))
    words = len(CLIPTokenizer.from_pretrained(folder / "tokenizer"))
    if not listed:
        (folder / "tokenizer/added_tokens.json").write_text(json.dumps({"<cat-toy>": words}))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    if listed:
        tokenizer.add_tokens(["<cat-toy>", "<cat-toy>_1"])
        tokenizer.save_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(3)
    more = len(tokenizer) - words
    encoder.get_input_embeddings().weight.data[words:] = torch.randn(more, 32) * 0.5
    encoder.save_pretrained(folder / "text_encoder")
    checks.same(f"textual inversion, {'new' if listed else 'old'} files", folder, "a <cat-toy> circle")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--craft", type=pathlib.Path, default=pathlib.Path("target/release/craft"))
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as root:
        checks = Checks(a.craft, pathlib.Path(root))
        for family in ("sd15", "sd21", "sdxl"):
            torch.manual_seed(0)
            base = checks.root / family
            families.make(family, base)
            wanted = theirs(base, PROMPT)
            checks.same(f"{family}, exclamation marks", base, MARKS)
            folder = checks.copy(base, f"{family}-old")
            weights = load_file(folder / "vae" / WEIGHTS)
            save_file({aged(n): t for n, t in weights.items()}, folder / "vae" / WEIGHTS, metadata=META)
            checks.same(f"{family}, old autoencoder", folder, wanted=wanted)
            (folder / "vae" / WEIGHTS).unlink()
            square = {aged(n): t[:, :, None, None] if ".attentions." in n and t.ndim == 2 else t
                      for n, t in weights.items()}
            torch.save(square, folder / "vae" / BIN)
            checks.same(f"{family}, old autoencoder, .bin and 1x1", folder, wanted=wanted)
        base = checks.root / "sd15"
        for listed in (False, True):
            textual_inversion(checks, base, listed)
        folder = checks.copy(base, "eight")
        weights = load_file(folder / "unet" / WEIGHTS)
        for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
            eight = {n: t.to(kind) for n, t in weights.items()}
            save_file({n: t.float() for n, t in eight.items()}, folder / "unet" / WEIGHTS, metadata=META)
            wanted = theirs(folder, PROMPT)
            save_file(eight, folder / "unet" / WEIGHTS, metadata=META)
            checks.same(f"{kind}", folder, wanted=wanted)
            (folder / "unet" / WEIGHTS).unlink()
            torch.save(eight, folder / "unet" / BIN)
            checks.same(f"{kind}, .bin", folder, wanted=wanted)
            (folder / "unet" / BIN).unlink()
        folder = checks.copy(base, "one")
        tokenizer = folder / "tokenizer"
        assert (tokenizer / "tokenizer.json").is_file()
        for name in ("vocab.json", "merges.txt"):
            (tokenizer / name).unlink(missing_ok=True)
        checks.same("tokenizer.json alone", folder)
        for channels, word in ((9, "inpainting"), (8, "InstructPix2Pix"), (5, "depth"), (7, "upscaler")):
            folder = checks.copy(base, f"in{channels}")
            families.unet(32, in_channels=channels).save_pretrained(folder / "unet")
            checks.refused(f"{channels} channels", folder, word)
        print("ok" if checks.ok else "not ok")
    sys.exit(0 if checks.ok else 1)


if __name__ == "__main__":
    main()
