"""Files as the world has them, drawn by diffusers and by craft: old names, adapters, tokens, schedules.

    python tools/world_vs_diffusers.py --craft target/release/craft [--only B1 C2 …] [--keep DIR]

Each case makes a small random model (tools/families_vs_diffusers.py), changes its files as published files or
older programs have them, draws it with diffusers and with `craft sample --rng torch` from the same noise, and
prints the relative difference of the final latents. A case that craft refuses by name counts as good where the
case says so. Leaves with status 1 when a difference is above 1e-3.
Needs torch, diffusers, transformers, peft, safetensors, numpy and Pillow (checked with torch 2.15, diffusers
0.42, transformers 5.24, peft 0.21). Nothing else in the project needs Python.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import diffusers.utils.logging
import transformers.utils.logging
from diffusers import DDIMScheduler, LCMScheduler, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import families_vs_diffusers as families  # noqa: E402
import single_file_vs_diffusers as single  # noqa: E402

PLAIN = "a large red circle above a tiny blue square"
BANG = "a big red circle! wow!! amazing"
SIZE = dict(height=32, width=48)


class Case:
    """One model folder, and both programs on it."""

    def __init__(self, craft, root):
        self.craft, self.root, self.env = craft, root, {}
        root.mkdir(parents=True)

    def base(self, family):
        torch.manual_seed(0)
        self.family, self.folder = family, self.root / family
        self.pipe = families.make(family, self.folder)
        return self

    def reload(self, **changes):
        safe = {} if self.family == "sdxl" else dict(
            safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        self.pipe = type(self.pipe).from_pretrained(self.folder, **safe, **changes)
        return self

    def config(self, file, **changes):
        path = self.folder / file
        data = json.loads(path.read_text())
        for key, value in changes.items():
            data.pop(key, None) if value is None else data.__setitem__(key, value)
        path.write_text(json.dumps(data))
        return self

    def draw(self, prompt=PLAIN, steps=3, own=False, **more):
        pipe = self.pipe
        pipe.set_progress_bar_config(disable=True)
        if not own:
            pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        return pipe(prompt, num_inference_steps=steps, guidance_scale=5.0, output_type="latent",
                    generator=torch.Generator().manual_seed(0), **(SIZE | more)).images

    def sample(self, *more, prompt=PLAIN, steps=3, model=None, size=True, dump=True):
        dumped = self.root / "latents.safetensors"
        size = ["--height", "32", "--width", "48"] if size else []
        args = [self.craft, "-q", "sample", "--model", model or self.folder, "--prompt", prompt, "--steps", steps,
                "--guidance-scale", 5, "--rng", "torch", "--seed", 0, *size, "--dump-latents", dumped,
                "--output", self.root / "picture.png", *more]
        done = subprocess.run([str(a) for a in args], capture_output=True, text=True,
                              env=os.environ | {"XDG_CACHE_HOME": str(self.root / "cache")} | self.env)
        self.code, self.error = done.returncode, done.stderr.strip()
        return load_file(dumped)["latents"] if done.returncode == 0 else None

    def compare(self, reference, *more, **options):
        ours = self.sample(*more, **options)
        if ours is None:
            return f"exit {self.code}: {self.error.splitlines()[-1] if self.error else ''}"
        return ((ours - reference).norm() / reference.norm()).item()


def rename(folder, file, pairs, only="", shape=None):
    path = folder / file
    state = load_file(path)
    out = {}
    for name, value in state.items():
        new = name
        if only in name:
            for a, b in pairs:
                new = new.replace(a, b)
            if new != name and shape and value.ndim == 2:
                value = shape(value)
        out[new] = value.contiguous()
    save_file(out, path)
    return out


OLD = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")]
VAE = "vae/diffusion_pytorch_model.safetensors"


def old_vae(family, shape=None, as_bin=False):
    def run(c):
        c.base(family)
        reference = c.draw()
        state = rename(c.folder, VAE, OLD, ".attentions.", shape)
        if as_bin:
            (c.folder / VAE).unlink()
            torch.save(state, c.folder / "vae/diffusion_pytorch_model.bin")
        return c.compare(reference)
    return run


def bang(family, prompt=BANG):
    return lambda c: c.base(family).compare(c.draw(prompt), prompt=prompt)


def adapter(folder=False, binary=False, bare=False, dora=False, text=False, **options):
    def run(c):
        c.base("sd15")
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"],
                            init_lora_weights=False, use_dora=dora, **options)
        d = c.root / "adapter"
        get_peft_model(UNet2DConditionModel.from_pretrained(c.folder / "unet"), config).save_pretrained(d)
        merged = PeftModel.from_pretrained(c.pipe.unet, d).merge_and_unload()
        c.pipe.unet = merged
        reference = c.draw()
        file = d / "adapter_model.safetensors"
        if bare:
            save_file({k.removeprefix("base_model.model.").replace(".weight", ".default.weight"): v
                       for k, v in load_file(file).items()}, file)
        if binary:
            torch.save(load_file(file), d / "adapter_model.bin")
            file.unlink()
            file = d / "adapter_model.bin"
        return c.compare(reference, "--lora", d if folder else file)
    return run


def processors(prefix="", binary=False):
    def run(c):
        c.base("sd15")
        torch.manual_seed(1)
        state = c.pipe.unet.state_dict()
        out = {}
        for name in [n for n in state if ".attn" in n and n.endswith(".weight") and ".to_" in n]:
            weight = state[name]
            block, part = name.removesuffix(".weight").rsplit(".to_", 1)
            part = part.removesuffix(".0")
            down, up = torch.randn(4, weight.shape[1]) * 0.2, torch.randn(weight.shape[0], 4) * 0.2
            for way, value in (("down", down), ("up", up)):
                out[f"{prefix}{block}.processor.to_{part}_lora.{way}.weight"] = value
            weight += up @ down
        reference = c.draw()
        file = c.root / ("processors.bin" if binary else "processors.safetensors")
        (torch.save if binary else save_file)(out, file)
        return c.compare(reference, "--lora", file)
    return run


def inversion(c):
    c.base("sd15")
    shutil.rmtree(c.folder / "tokenizer")
    shutil.copytree(families.POCKET / "tokenizer", c.folder / "tokenizer")
    path = c.folder / "tokenizer/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 77}))
    (c.folder / "tokenizer/added_tokens.json").write_text('{"<cat-toy>": 885}')
    encoder = CLIPTextModel.from_pretrained(c.folder / "text_encoder")
    encoder.resize_token_embeddings(886)
    torch.manual_seed(3)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[885] = torch.randn(32) * 0.5
    encoder.save_pretrained(c.folder / "text_encoder")
    c.reload()
    prompt = "a <cat-toy> circle"
    return c.compare(c.draw(prompt), prompt=prompt)


def old_size(c):
    c.base("sd15").config("unet/config.json", sample_size=32, _diffusers_version="0.2.2").reload()
    c.pipe.set_progress_bar_config(disable=True)
    wanted = c.pipe(PLAIN, num_inference_steps=1).images[0].size
    c.sample(size=False, steps=1)
    from PIL import Image
    found = Image.open(c.root / "picture.png").size
    return 0.0 if found == wanted else f"{found} for {wanted}"


def scheduler(own, steps=25, **keys):
    # Where DDIM clips its prediction, a random network drawn for many steps amplifies rounding: 3 steps there.
    def run(c):
        c.base("sd15")
        (c.folder / "scheduler/scheduler_config.json").write_text(json.dumps(families.BETAS | keys))
        index = json.loads((c.folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", keys["_class_name"]]
        (c.folder / "model_index.json").write_text(json.dumps(index))
        c.reload()
        return c.compare(c.draw(steps=steps, own=own), steps=steps)
    return run


def inpainting(c):
    c.base("sd15")
    torch.manual_seed(0)
    families.unet(32, in_channels=9).save_pretrained(c.folder / "unet")
    c.sample()
    return refusal(c, "inpainting")


def refusal(c, *words, code=3):
    good = c.code == code and all(w.lower() in c.error.lower() for w in words)
    return 0.0 if good else f"exit {c.code}: {c.error[-300:]}"


def file_offline(c):
    torch.manual_seed(0)
    pipe = single.pipeline("sd1")
    pipe.text_encoder.resize_token_embeddings(49408)
    single.randomise(pipe.text_encoder)
    file = c.root / "model.safetensors"
    save_file(single.single_file("sd1", pipe), file)
    c.env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(c.root / "hf")}
    c.sample(model=file)
    return 0.0 if c.code == 0 else f"exit {c.code}: {c.error[-300:]}"


def zero_snr(c):
    torch.manual_seed(0)
    pipe = single.pipeline("sdxl")
    c.folder = c.root / "folder"
    pipe.save_pretrained(c.folder)
    words = c.root / "words"
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(c.folder / name, words / name)
    file = c.root / "model.safetensors"
    save_file(single.single_file("sdxl", pipe) | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, file)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    c.pipe = pipe
    return c.compare(c.draw(own=True), "--model-config", words, model=file)


def lcm(c):
    c.base("sd15")
    c.pipe.scheduler = LCMScheduler.from_config(c.pipe.scheduler.config)
    c.pipe.save_pretrained(c.folder)
    args = [c.craft, "sample", "--model", c.folder, "--prompt", PLAIN, "--steps", "2", "--height", "32", "--width",
            "32", "--output", c.root / "a.png"]
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    return 0.0 if "lcm" in done.stderr.lower() else f"exit {done.returncode}: {done.stderr[-200:]}"


def fp8(c):
    torch.manual_seed(0)
    pipe = single.pipeline("sdxl")
    file, words = c.root / "model.safetensors", c.root / "words"
    state = single.single_file("sdxl", pipe)
    small = {k: v.to(torch.float8_e4m3fn) if k.startswith("model.diffusion_model") else v for k, v in state.items()}
    folder = c.root / "folder"
    pipe.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(folder / name, words / name)
    save_file(small, file)
    c.sample("--model-config", words, model=file)
    if c.code:
        left = list((c.root / "cache").rglob("*.safetensors"))
        return refusal(c, "f8") if not left else f"left in the cache: {left}"
    wide = c.root / "wide.safetensors"
    save_file({k: v.float() for k, v in small.items()}, wide)
    other = c.sample("--model-config", words, model=wide)
    return c.compare(other, "--model-config", words, model=file)


def no_merges(c):
    c.base("sd15")
    reference = c.draw()
    tokens = c.folder / "tokenizer"
    if not (tokens / "tokenizer.json").exists():
        c.pipe.tokenizer.backend_tokenizer.save(str(tokens / "tokenizer.json"))
    (tokens / "vocab.json").write_text(json.dumps(json.loads((tokens / "tokenizer.json").read_text())["model"]["vocab"]))
    (tokens / "merges.txt").unlink(missing_ok=True)
    return c.compare(reference)


def replaced(c):
    torch.manual_seed(0)
    pipe = single.pipeline("sd1")
    folder, file = c.root / "folder", c.root / "model.safetensors"
    pipe.save_pretrained(folder)
    words = c.root / "words"
    shutil.copytree(folder / "tokenizer", words / "tokenizer")
    state = single.single_file("sd1", pipe)
    save_file(state, file)
    stat = file.stat()
    first = c.sample("--model-config", words, model=file)
    save_file(state | {"model.diffusion_model.out.2.weight": state["model.diffusion_model.out.2.weight"] * 1.5}, file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = c.sample("--model-config", words, model=file)
    return 0.0 if not torch.equal(first, second) else "the old latents"


DDIM = dict(_class_name="DDIMScheduler", set_alpha_to_one=False)
CASES = {
    "A1": old_vae("sd15"),
    "A1 2.x": old_vae("sd21"),
    "A1 xl": old_vae("sdxl"),
    "A1 1x1": old_vae("sd15", lambda v: v[:, :, None, None]),
    "A1 bin": old_vae("sd21", as_bin=True),
    "B1": bang("sd21"),
    "B2": bang("sdxl"),
    "B1 ends": bang("sd21", "!a circle ! !! ! square!"),
    "C1": adapter(),
    "C2": adapter(use_rslora=True),
    "C3 patterns": adapter(rank_pattern={"to_k": 2}, alpha_pattern={"to_v": 3}),
    "C4": adapter(folder=True),
    "C5 bin": adapter(binary=True),
    "C6 bare": adapter(bare=True),
    "C7 dora": lambda c: (adapter(dora=True)(c), refusal(c, "dora"))[1],
    "D1": inversion,
    "E1": old_size,
    "F1": scheduler(True, **DDIM, clip_sample=True, steps_offset=1),
    "F2": scheduler(True, **DDIM, clip_sample=False, steps_offset=0),
    "F2 none": scheduler(True, **DDIM, clip_sample=False),
    "F3 PNDM": scheduler(False, 3, _class_name="PNDMScheduler", skip_prk_steps=True),
    "F3 DDPM": scheduler(False, _class_name="DDPMScheduler", clip_sample=True),
    "F3 DDPM none": scheduler(False, 3, _class_name="DDPMScheduler"),
    "G1": inpainting,
    "H1": file_offline,
    "I1": processors(),
    "I2": processors("unet.", binary=True),
    "J1": zero_snr,
    "K1": lcm,
    "L1": fp8,
    "M1": no_merges,
    "O1": replaced,
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--craft", type=pathlib.Path, default=pathlib.Path("target/release/craft"))
    p.add_argument("--only", nargs="*")
    p.add_argument("--keep", type=pathlib.Path, help="folder for the models, which are thrown away otherwise")
    a = p.parse_args()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    root = a.keep or pathlib.Path(tempfile.mkdtemp())
    bad = []
    for name, case in CASES.items():
        if a.only and name.split()[0] not in a.only and name not in a.only:
            continue
        found = case(Case(a.craft.resolve(), root / name.replace(" ", "-")))
        good = isinstance(found, float) and found <= 1e-3
        bad += [] if good else [name]
        print(f"{'good' if good else 'BAD '} {name:13} {found if isinstance(found, str) else f'{found:.1e}'}", flush=True)
    if not a.keep:
        shutil.rmtree(root)
    print(json.dumps({"bad": bad}))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
