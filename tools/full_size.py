"""Models of full size with random weights, and PyTorch's share of the comparison with `craft`.

    python tools/full_size.py make --family sd15 --out /tmp/sd15            (sdxl: --dtype bf16)
    python tools/full_size.py forward --model /tmp/sd15 --craft target/release/craft --size 256
    python tools/full_size.py step --model /tmp/sd15 --size 256 [--checkpointing] [--lora-rank 4] [--dtype bf16]

On a busy machine compare processor seconds, with OMP_WAIT_POLICY=passive so that PyTorch's waiting threads
do not count.

`make` writes a diffusers folder with the real configurations (weights as the networks initialise them, the
tokenizer of the embedded model). `forward` compares one prediction. `step` measures forward, backward and
AdamW; its counterpart is

    craft bench train-step --model /tmp/sd15 --batch 1 --height 256 --width 256 --steps 2 --json
        [--gradient-checkpointing] [--lora-rank 4] [--precision bf16]

Needs torch, diffusers, transformers, peft and safetensors (checked with torch 2.15, diffusers 0.42,
transformers 5.23, peft 0.21). Nothing else in the project needs Python.
"""

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import tempfile
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

POCKET = pathlib.Path(__file__).parent.parent / "assets/pocket"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
UNETS = {
    "sd15": dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)),
    "sdxl": dict(
        sample_size=128, cross_attention_dim=2048, attention_head_dim=[5, 10, 20], block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10], use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    ),
}


def make(args):
    torch.manual_seed(0)
    out = pathlib.Path(args.out)
    xl = args.family == "sdxl"
    torch.set_default_dtype(DTYPES[args.dtype])
    UNet2DConditionModel(**UNETS[args.family]).save_pretrained(out / "unet", max_shard_size=args.shard_size)
    levels = 4
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), latent_channels=4, sample_size=512, layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
    ).save_pretrained(out / "vae")
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )
    CLIPTextModel(text).save_pretrained(out / "text_encoder")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                  set_alpha_to_one=False, steps_offset=1).save_pretrained(out / "scheduler")
    names = ["tokenizer"]
    if xl:
        names.append("tokenizer_2")
        second = CLIPTextConfig(
            vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
            max_position_embeddings=77, hidden_act="gelu", projection_dim=1280, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )
        CLIPTextModelWithProjection(second).save_pretrained(out / "text_encoder_2")
    for name in names:
        shutil.copytree(POCKET / "tokenizer", out / name, dirs_exist_ok=True)
        path = out / name / "tokenizer_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"model_max_length": 77}, indent=2))
    index = json.loads((POCKET / "model_index.json").read_text())
    if xl:
        index |= {
            "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
    (out / "model_index.json").write_text(json.dumps(index, indent=2))


def inputs(unet, size, batch=1):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    config = unet.config
    io = {
        "sample": draw(batch, 4, size // 8, size // 8), "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": draw(batch, 77, config.cross_attention_dim),
        "target": draw(batch, 4, size // 8, size // 8), "weight": torch.ones(batch),
    }
    if config.addition_embed_type:
        io["text_embeds"] = draw(batch, 1280)
        io["time_ids"] = torch.tensor([[size, size, 0, 0, size, size]] * batch, dtype=torch.float32)
    return io


def predict(unet, io):
    added = {k: io[k].to(unet.dtype) for k in ("text_embeds", "time_ids") if k in io}
    context = io["encoder_hidden_states"].to(unet.dtype)
    return unet(io["sample"].to(unet.dtype), io["timestep"], context, added_cond_kwargs=added).sample


def forward(args):
    unet = UNet2DConditionModel.from_pretrained(f"{args.model}/unet", torch_dtype=torch.float32)
    io = inputs(unet, args.size)
    with torch.no_grad():
        start = time.time()
        expected = predict(unet, io)
        torch_seconds = time.time() - start
    del unet
    with tempfile.TemporaryDirectory() as folder:
        save_file({k: v.contiguous() for k, v in io.items()}, f"{folder}/in.safetensors")
        start = time.time()
        subprocess.run(
            [args.craft, "forward", "--model", args.model, "--component", "unet", "--in", f"{folder}/in.safetensors",
             "--out", f"{folder}/out.safetensors"], check=True)
        seconds = time.time() - start
        found = load_file(f"{folder}/out.safetensors")["sample"]
    error = ((found - expected).norm() / expected.norm()).item()
    print(json.dumps({"size": args.size, "relative_error": error, "torch_seconds": torch_seconds,
                      "craft_seconds_with_loading": seconds}))


def step(args):
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(f"{args.model}/unet", torch_dtype=DTYPES[args.dtype])
    if args.lora_rank:
        from peft import LoraConfig
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=args.lora_rank, lora_alpha=args.lora_rank, init_lora_weights="gaussian", target_modules=TARGETS))
        for p in unet.parameters():
            if p.requires_grad:
                p.data = p.data.float()
    if args.checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    # One tensor after another: `foreach` would hold copies of all parameters.
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, foreach=False)
    io = inputs(unet, args.size, args.batch)
    seconds, cpu = [], []
    for _ in range(args.steps + 1):
        start, before = time.time(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = (predict(unet, io).float() - io["target"]).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.time() - start)
        cpu.append(time.process_time() - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"torch": torch.__version__, "size": args.size, "batch": args.batch, "checkpointing": args.checkpointing,
                      "lora_rank": args.lora_rank, "dtype": args.dtype, "trainable": sum(p.numel() for p in parameters),
                      "seconds": seconds[1:], "cpu_seconds": cpu[1:], "peak_rss_bytes": peak, "threads": torch.get_num_threads()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("make")
    sub.add_argument("--family", choices=UNETS, default="sd15")
    sub.add_argument("--dtype", choices=DTYPES, default="f32")
    sub.add_argument("--out", required=True)
    sub.add_argument("--shard-size", default="100GB", help="largest file of the denoiser's weights, such as 2GB")
    sub = commands.add_parser("forward")
    sub.add_argument("--model", required=True)
    sub.add_argument("--craft", required=True)
    sub.add_argument("--size", type=int, default=256)
    sub = commands.add_parser("step")
    sub.add_argument("--model", required=True)
    sub.add_argument("--size", type=int, default=256)
    sub.add_argument("--batch", type=int, default=1)
    sub.add_argument("--steps", type=int, default=2)
    sub.add_argument("--checkpointing", action="store_true")
    sub.add_argument("--lora-rank", type=int, default=0)
    sub.add_argument("--dtype", choices=DTYPES, default="f32")
    args = parser.parse_args()
    {"make": make, "forward": forward, "step": step}[args.command](args)


main()
