"""Puts LoRA files and checkpoints that craft exported through the loaders of other programs.

    python tools/exports_in_loaders.py --make DIR                              # small random models, real blocks
    python tools/exports_in_loaders.py --craft target/release/craft --runs DIR --make DIR   # and LoRA runs on them
    python tools/exports_in_loaders.py --comfy C --a1111 A --sd-scripts S --model DIR/sdxl FILE.safetensors…

C, A and S are checkouts of ComfyUI, AUTOMATIC1111's stable-diffusion-webui and kohya-ss/sd-scripts; A and S may be
left out. FILE is what `craft export --format lora-kohya`, `lora-diffusers` or `single-file` wrote of a run on the
model. For each program and file it prints how many tensors were placed of all, the difference of the merged weights from
diffusers' (‖a − b‖ / ‖b‖, of the change), and what was left out. Leaves with status 1 when a difference is above 1e-5, or
a program leaves out more than is known of it (crates/craft-nn/src/lora/places.rs).

Needs torch, diffusers, peft, transformers, safetensors, and for the programs einops and torchsde (checked with ComfyUI
a125cd84, A1111 82a973c0, sd-scripts 48d368fa, diffusers 0.42, peft 0.21, torch 2.15). Their own code runs; what it
imports and does not use here is replaced by empty modules. Nothing else in the project needs Python.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import types

import torch
from diffusers import (
    DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

HERE = pathlib.Path(__file__).parent
LIMIT = 1e-5
# Kinds of modules that a program has no place for.
KNOWN = {
    "ComfyUI": (), "diffusers": (), "A1111": ("te2_text_projection",),
    "sd-scripts": ("unet_input_blocks_0_0", "unet_out_2", "time_embed", "label_emb", "conv_in", "conv_out",
                   "time_embedding", "add_embedding", "te2_text_projection"),
}
UNETS = {
    "sd15": dict(block_out_channels=(32, 64, 128, 128), attention_head_dim=8, cross_attention_dim=32),
    "sd21": dict(block_out_channels=(64, 128, 256, 256), attention_head_dim=(1, 2, 4, 4), cross_attention_dim=32,
                 use_linear_projection=True),
    "sdxl": dict(block_out_channels=(64, 128, 256), attention_head_dim=(1, 2, 4), cross_attention_dim=80,
                 use_linear_projection=True, transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time",
                 addition_time_embed_dim=8, projection_class_embeddings_input_dim=48 + 6 * 8,
                 down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                 up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")),
}
DEPTHS = {"sd15": (12, None), "sd21": (23, None), "sdxl": (12, 32)}


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(family, folder):
    """A random model with the blocks of the published one."""
    small = load("small", HERE / "families_vs_diffusers.py")
    first = small.tokenizer("!" if family == "sd21" else "<|endoftext|>")
    words, (depth, depth_2) = len(first), DEPTHS[family]
    act = "gelu" if family == "sd21" else "quick_gelu"
    text = CLIPTextModel(small.text_config(words, hidden_act=act, num_hidden_layers=depth))
    common = dict(
        unet=UNet2DConditionModel(**(dict(sample_size=16) | UNETS[family])), vae=small.vae(), text_encoder=text,
        tokenizer=first, scheduler=DDIMScheduler(**small.BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1))
    if family == "sdxl":
        second = CLIPTextModelWithProjection(small.text_config(
            words, hidden_size=48, num_attention_heads=6, hidden_act="gelu", projection_dim=48, num_hidden_layers=depth_2))
        pipe = StableDiffusionXLPipeline(**common, text_encoder_2=second, tokenizer_2=small.tokenizer("!"))
    else:
        pipe = StableDiffusionPipeline(**common, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder)


RUNS = {
    "attn": [], "lin": ['train.lora.targets=["all-linear"]', "train.lora.alpha=2"],
    "allte": ["train.lora.targets=all", "train.lora.text_encoders=true", "train.lora.text_encoder_targets=all"],
}
RECIPE = """
[model]
path = "{model}"
[prompts]
train = "{here}/prompts.txt"
eval = "{here}/eval.txt"
[expand]
templates = "pocket"
variants = 1
[generate]
steps = 1
height = 64
width = 64
[[rewards]]
name = "a"
weights = "{assets}/rewards/pocket-hps"
[select]
max_samples = 2
min_passes = 0
[train]
mode = "lora"
steps = 3
batch = 1
learning_rate = 1e-2
[control]
enabled = false
[evaluate]
samples_per_prompt = 1
bootstrap = 100
"""


def runs(craft, root, models):
    """LoRA runs on the models, and their exports: <root>/<family>-<run>-<format>.safetensors."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "prompts.txt").write_text("".join(f"a {c} {s}\n" for c in ("red", "blue") for s in ("circle", "star")))
    (root / "eval.txt").write_text("a green circle\n")
    for family in UNETS:
        if not (models / family).is_dir():
            continue
        text = RECIPE.format(model=(models / family).absolute(), here=root.absolute(),
                             assets=(HERE.parent / "assets/pocket").absolute())
        (root / "recipe.toml").write_text(text)
        for name, sets in RUNS.items():
            out = root / f"{family}-{name}"
            sets = [word for text in sets for word in ("--set", text)]
            run = [craft, "-q", "train", str(out)] if out.is_dir() else \
                [craft, "-q", "run", str(root / "recipe.toml"), "--out", str(out), *sets]
            subprocess.run(run, check=True)
            for kind in ("lora-kohya", "lora-diffusers", "single-file"):
                to = root / f"{family}-{name}-{kind}.safetensors"
                subprocess.run([craft, "-q", "export", str(out), "--format", kind, "--out", str(to)], check=True)


# What diffusers makes of a file, by component and parameter.

def pipeline(folder):
    return DiffusionPipeline.from_pretrained(folder, **(
        {} if (folder / "text_encoder_2").is_dir() else dict(safety_checker=None, requires_safety_checker=False)))


def parts(pipe):
    names = [n for n in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, n, None) is not None]
    return {(n, k): v for n in names for k, v in getattr(pipe, n).state_dict().items()}


def in_diffusers(folder, file):
    """The change of each parameter after load_lora_weights and fuse_lora."""
    pipe = pipeline(folder)
    before = {k: v.clone() for k, v in parts(pipe).items()}
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = parts(pipe)
    return {k: after[k] - v for k, v in before.items() if not torch.equal(after[k], v)}, before


# The programs. Each gives {our key: change} and the keys of the file that it placed.

def stub(name, **what):
    module = types.ModuleType(name)
    module.__dict__.update(what)

    def other(attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return types.SimpleNamespace()

    module.__getattr__ = other
    sys.modules[name] = module
    return module


def comfy(checkout):
    sys.path.insert(0, str(checkout))
    import comfy.cli_args
    comfy.cli_args.args.cpu = True
    import comfy.model_base, comfy.lora, comfy.lora_convert, comfy.ops
    return comfy


def original_unet(comfy, family):
    """Names of ComfyUI's own network, as the official code has them, by the names in diffusers; the latter by diffusers'
    own conversion."""
    config = {
        "sd15": dict(num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4], transformer_depth=[1] * 6 + [0] * 2,
                     transformer_depth_output=[1] * 9 + [0] * 3, transformer_depth_middle=1, context_dim=768,
                     use_linear_in_transformer=False, num_heads=8, adm_in_channels=None),
        "sdxl": dict(num_res_blocks=[2] * 3, channel_mult=[1, 2, 4], transformer_depth=[0, 0, 2, 2, 10, 10],
                     transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], transformer_depth_middle=10,
                     context_dim=2048, use_linear_in_transformer=True, num_head_channels=64, num_classes="sequential",
                     adm_in_channels=2816),
    }
    config["sd21"] = config["sd15"] | dict(context_dim=1024, use_linear_in_transformer=True, num_head_channels=64)
    config["sd21"].pop("num_heads")
    config = config[family] | dict(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, use_spatial_transformer=True, legacy=False,
        use_checkpoint=False)
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    net = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
    keys = list(net.state_dict())
    numbered = {f"model.diffusion_model.{k}": torch.tensor(i) for i, k in enumerate(keys)}
    shape = dict(layers_per_block=2) | UNETS[family]
    shape = dict(down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                 up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3) | shape
    shape = dict(class_embed_type=None, addition_embed_type=None) | shape
    found = convert_ldm_unet_checkpoint(numbered, shape)
    return config, {diffusers: keys[int(i)] for diffusers, i in found.items()}


def in_comfy(comfy, family, lora, base, original):
    config, names = original
    shown = {f"diffusion_model.{names[k]}": v for (part, k), v in base.items() if part == "unet"}
    back = {f"diffusion_model.{names[k]}": (part, k) for (part, k) in base if part == "unet"}
    clips = {"sd15": ["clip_l"], "sd21": ["clip_h"], "sdxl": ["clip_l", "clip_g"]}[family]
    text = {}
    for clip, folder in zip(clips, ("text_encoder", "text_encoder_2")):
        for (part, k), v in base.items():
            if part == folder:
                k2 = k if k.startswith("text_") else f"text_model.{k}"
                text[f"{clip}.transformer.{k2}"] = v
                back[f"{clip}.transformer.{k2}"] = (part, k)
    holder = lambda sd: types.SimpleNamespace(
        state_dict=lambda: sd, model_config=types.SimpleNamespace(unet_config=config))
    key_map = comfy.lora.model_lora_keys_unet(holder(shown), {})
    key_map = comfy.lora.model_lora_keys_clip(holder(text), key_map)
    lora = comfy.lora_convert.convert_lora(dict(lora))
    patches = comfy.lora.load_lora(lora, key_map, log_missing=False)
    placed = {k for patch in patches.values() for k in patch.loaded_keys}
    all_weights = shown | text
    change = {}
    for key, patch in patches.items():
        zero = torch.zeros_like(all_weights[key])
        change[back[key]] = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], zero, key)
    return change, placed


def a1111(checkout):
    sys.path[:0] = [str(checkout / "extensions-builtin/Lora")]
    qkv = type("QkvLinear", (torch.nn.Linear,), {})
    package = stub("modules")
    package.__path__ = []
    for name in ("shared", "devices", "sd_models", "errors", "scripts", "sd_hijack", "cache", "hashes", "patches",
                 "textual_inversion", "textual_inversion.textual_inversion", "models", "models.sd3", "models.sd3.mmdit"):
        module = stub(f"modules.{name}")
        module.__path__ = []
        parent, _, last = f"modules.{name}".rpartition(".")
        setattr(sys.modules[parent], last, module)
    sys.modules["modules.models.sd3.mmdit"].QkvLinear = qkv
    sys.modules["modules.devices"].cpu = torch.device("cpu")
    sys.modules["modules.devices"].dtype = torch.float32
    sys.modules["modules.sd_models"].read_state_dict = load_file
    sys.modules["modules.scripts"].scripts_data = []
    empty = tempfile.mkdtemp()
    sys.modules["modules.shared"].cmd_opts = types.SimpleNamespace(lora_dir=empty, lyco_dir_backcompat=empty)
    sys.modules["modules.shared"].walk_files = lambda *a, **k: []
    stub("gradio"), stub("lora_patches"), stub("lora_logger", logger=types.SimpleNamespace(debug=print))
    import networks
    # sd-scripts has a package of that name.
    sys.path.remove(str(checkout / "extensions-builtin/Lora"))
    return sys.modules.pop("networks")


def in_a1111(networks, family, file, base, original):
    modules, back = {}, {}

    def add(name, key, weight):
        if weight.dim() == 4:
            made = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
        else:
            made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        modules[name], back[name] = made, key

    _, names = original
    for (part, k), weight in base.items():
        if not k.endswith(".weight") or weight.dim() not in (2, 4) or "embedding.weight" in k:
            continue
        module = k.removesuffix(".weight")
        if part == "unet":
            add("diffusion_model_" + names[k].removesuffix(".weight").replace(".", "_"), (part, k), weight)
            continue
        short = module.removeprefix("text_model.").replace(".", "_")
        if part == "text_encoder_2" or family == "sd21":
            # open_clip's tower.
            prefix = "1_" if family == "sdxl" else ""
            short = short.replace("encoder_layers", "model_transformer_resblocks")
            for ours, theirs in (("mlp_fc1", "mlp_c_fc"), ("mlp_fc2", "mlp_c_proj"), ("self_attn", "attn")):
                short = short.replace(ours, theirs)
            if "_attn_" in short and not short.endswith("out_proj"):
                attention = prefix + short.rsplit("_", 2)[0]
                modules[attention] = torch.nn.MultiheadAttention(weight.shape[1], 1)
                back[prefix + short] = (part, k)
            elif "resblocks" in short:
                add(prefix + short, (part, k), weight)
        else:
            add(("0_" if family == "sdxl" else "") + f"transformer_text_model_{short}", (part, k), weight)
    if family == "sd21":
        # By this one A1111 tells Stable Diffusion 2.
        modules["model_transformer_resblocks"] = torch.nn.Identity()
    model = types.SimpleNamespace(network_layer_mapping=modules, is_sdxl=family == "sdxl")
    networks.shared.sd_model = model
    disk = types.SimpleNamespace(filename=str(file))
    net = networks.load_network("x", disk)
    change, placed = {}, set()
    for key, module in net.modules.items():
        weight = torch.zeros(module.up_model.weight.shape[0], *module.down_model.weight.shape[1:])
        change[back[key]] = module.calc_updown(weight)[0].reshape(base[back[key]].shape)
        # With the parts of a module, its alpha.
        placed.add(module.network_key.split(".")[0])
    return change, {k for k in load_file(file) if k.split(".")[0] in placed}


def sd_scripts(checkout):
    sys.path[:0] = [str(checkout), str(checkout / "networks")]
    utils = dict(setup_logging=lambda *a, **k: None)
    stub("library.utils", **utils)
    stub("library.train_util", load_metadata_from_safetensors=lambda file: {})
    for name in ("library.sai_model_spec", "library.model_util", "library.sdxl_model_util", "svd_merge_lora", "oft"):
        stub(name, format_lbws=None, get_lbw_block_index=None, LAYER26={})
    from networks import lora as _
    sys.modules["lora"] = sys.modules["networks.lora"]
    import library.sdxl_original_unet as unet
    import networks.merge_lora as plain
    import networks.sdxl_merge_lora as xl
    return unet, plain, xl


class TextModel(torch.nn.Module):
    """A text encoder with the level `text_model`, which transformers 5 has no more."""

    def __init__(self, inner):
        super().__init__()
        self.text_model = getattr(inner, "text_model", inner)


def in_sd_scripts(tools, family, folder, file, base, original):
    unet_code, plain, xl = tools
    _, names = original
    pipe = pipeline(folder)
    if family != "sdxl":
        net, texts = pipe.unet, [TextModel(pipe.text_encoder)]
        merged = lambda: plain.merge_to_sd_model(*texts, net, [str(file)], [1.0], torch.float32)
        back = {k: ("unet", k) for k in net.state_dict()}
    else:
        config = pipe.unet.config
        unet_code.MODEL_CHANNELS = config.block_out_channels[0]
        unet_code.TIME_EMBED_DIM = 4 * unet_code.MODEL_CHANNELS
        unet_code.ADM_IN_CHANNELS = config.projection_class_embeddings_input_dim
        init = unet_code.Transformer2DModel.__init__
        unet_code.Transformer2DModel.__init__ = lambda self, **k: init(
            self, **(k | dict(cross_attention_dim=config.cross_attention_dim)))
        net, texts = unet_code.SdxlUNet2DConditionModel(), [TextModel(t) for t in (pipe.text_encoder, pipe.text_encoder_2)]
        unet_code.Transformer2DModel.__init__ = init
        net.load_state_dict({names[k]: v for (part, k), v in base.items() if part == "unet"})
        merged = lambda: xl.merge_to_sd_model(*texts, net, [str(file)], [1.0], [], torch.float32)
        back = {names[k]: (part, k) for (part, k) in base if part == "unet"}
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (net, *texts)]
    with torch.no_grad():
        merged()
    change = {}
    for part, module, old in zip(("unet", "text_encoder", "text_encoder_2"), (net, *texts), before):
        for k, v in module.state_dict().items():
            if not torch.equal(v, old[k]):
                key = (part, k) if (part, k) in base else (part, k.removeprefix("text_model."))
                change[back[k] if part == "unet" else key] = v - old[k]
    return change, None


def difference(found, wanted):
    keys = found.keys() | wanted.keys()
    zero = torch.zeros(())
    error = sum(((found.get(k, zero) - wanted.get(k, zero)).double() ** 2).sum() for k in keys)
    size = sum((v.double() ** 2).sum() for v in wanted.values())
    return float((error / size).sqrt()) if size else 0.0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--make", type=pathlib.Path, metavar="DIR", help="write the models")
    p.add_argument("--craft", type=pathlib.Path, default=pathlib.Path("target/release/craft"))
    p.add_argument("--runs", type=pathlib.Path, metavar="DIR", help="train and export LoRA on the models of --make")
    p.add_argument("--comfy", type=pathlib.Path)
    p.add_argument("--a1111", type=pathlib.Path)
    p.add_argument("--sd-scripts", type=pathlib.Path)
    p.add_argument("--model", type=pathlib.Path, help="the folder of the base model, in the layout of diffusers")
    p.add_argument("files", type=pathlib.Path, nargs="*")
    a = p.parse_args()
    if a.make:
        for family in UNETS:
            if not (a.make / family / "model_index.json").is_file():
                torch.manual_seed(0)
                make(family, a.make / family)
    if a.runs:
        runs(a.craft, a.runs, a.make)
    if not a.files:
        return
    if not (a.comfy and a.model):
        p.error("give --comfy, whose network has the names of the original code, and --model")
    config = json.loads((a.model / "unet/config.json").read_text())
    family = "sdxl" if config.get("addition_embed_type") else "sd21" if config["use_linear_projection"] else "sd15"
    comfy_code = comfy(a.comfy)
    original = original_unet(comfy_code, family)
    a1111_code = a1111(a.a1111) if a.a1111 else None
    scripts = sd_scripts(a.sd_scripts) if a.sd_scripts else None
    good = True
    for file in a.files:
        lora = load_file(file)
        ups = {k: v for k, v in lora.items() if k.endswith((".lora_up.weight", ".lora_B.weight"))}
        # What training left at zero changes nothing (the last layer of SDXL's first text encoder, which it does not read).
        learned = sum(bool(v.any()) for v in ups.values())
        wanted, base = in_diffusers(a.model, file)
        tried = {"diffusers": (wanted, None), "ComfyUI": in_comfy(comfy_code, family, lora, base, original)}
        if a1111_code:
            tried["A1111"] = in_a1111(a1111_code, family, file, base, original)
        if scripts:
            tried["sd-scripts"] = in_sd_scripts(scripts, family, a.model, file, base, original)
        for program, (change, placed) in tried.items():
            count = f"{len(placed)} / {len(lora)} tensors" if placed is not None else ""
            lost = {k: v for k, v in wanted.items() if k not in change}
            of_those = {k: v for k, v in wanted.items() if k in change}
            apart = difference(change, of_those)
            left = sorted(".".join(k).removesuffix(".weight") for k in lost)
            known = all(any(kind in name.replace(".", "_") or name.split(".")[1] in kind for kind in KNOWN[program])
                        for name in left)
            ok = apart <= LIMIT and known and (program != "diffusers" or len(change) == learned)
            good &= ok or file.stem.endswith("diffusers")
            print(f"{file.stem:28} {program:11} {len(change)} / {learned if placed is None else len(ups)} modules {count:24} difference {apart:.1e}"
                  f"{'' if ok else '  ✗'}  {'left out: ' + ', '.join(left) if 0 < len(left) < 20 else ''}", flush=True)
    print(json.dumps({"ok": bool(good)}))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
