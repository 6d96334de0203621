"""Full-size CLIP rewards with random weights: images per second on the CPU and peak memory, craft's beside
PyTorch's, in turns.

    python tools/reward_speed.py --craft target/release/craft [--models h,l] [--rounds 2] [--few 4] [--many 20]

Needs torch, transformers, open_clip_torch, safetensors and pillow, and about 4 GB of disk in --work. HPSv2.1
(open_clip's ViT-H/14, fp16 in a torch zip) and CLIPScore (ViT-L/14, fp32 safetensors) score 512x512 pictures with one
prompt. Speed is that of the pictures between `few` and `many`, so loading does not count; loading is what is left of
the run with `few`. CPU seconds tell on a machine that does other work too. Peak memory is that of the whole process, weights as the file is read included.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

PROMPT = "a photograph of two red bicycles leaning against a brick wall in the afternoon sun"
OPENAI_L = dict(
    text_config=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                     projection_dim=768),
    vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                       image_size=224, patch_size=14, projection_dim=768),
    projection_dim=768)


def make(work, model):
    """Random weights in the published layout."""
    import torch
    if model == "h":
        import open_clip
        path = work / "HPS_v2.1_compressed.pt"
        if not path.exists():
            net = open_clip.create_model("ViT-H-14")
            torch.save({"state_dict": {k: v.half() for k, v in net.state_dict().items()}}, path)
    else:
        from transformers import CLIPConfig, CLIPModel
        path = work / "clip-vit-large-patch14"
        if not path.exists():
            CLIPModel(CLIPConfig(**OPENAI_L)).save_pretrained(path)


def pictures(work, count):
    paths = [work / f"{i:03}.png" for i in range(count)]
    if all(path.exists() for path in paths):
        return paths
    import numpy as np
    from PIL import Image
    for i, path in enumerate(paths):
        if not path.exists():
            small = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(small).resize((512, 512), Image.BICUBIC).save(path)
    return paths


def torch_run(work, model, count, threads):
    """What the originals do, in 32 bits, in batches of 32 as craft."""
    import open_clip
    import torch
    import torch.nn.functional as F
    import torchvision.transforms.functional as tvf
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    ids = open_clip.get_tokenizer("ViT-H-14")([PROMPT])
    if model == "h":
        net = open_clip.create_model("ViT-H-14").eval()
        net.load_state_dict(torch.load(work / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"])
        prepare = lambda im: tvf.resize(tvf.to_tensor(im), [224, 224], InterpolationMode.BICUBIC, antialias=True)
        image, text = net.encode_image, net.encode_text(ids)
    else:
        from transformers import CLIPModel
        net = CLIPModel.from_pretrained(work / "clip-vit-large-patch14").eval()
        prepare = lambda im: tvf.to_tensor(tvf.resize(im, 224, InterpolationMode.BICUBIC))
        image = lambda x: net.visual_projection(net.vision_model(pixel_values=x).pooler_output)
        text = net.text_projection(net.text_model(input_ids=ids).pooler_output)
    out = []
    paths = pictures(work, count)
    for start in range(0, count, 32):
        batch = torch.stack([(prepare(Image.open(p).convert("RGB")) - mean) / std for p in paths[start:start + 32]])
        out += (F.normalize(image(batch), dim=-1) @ F.normalize(text, dim=-1).T)[:, 0].tolist()
    print(json.dumps(out))


def measure(command, env):
    start = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed with status {status}")
    return time.time() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--craft", required=True)
    parser.add_argument("--models", default="h,l")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--few", type=int, default=4)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/reward_speed"))
    parser.add_argument("--torch", nargs=2, metavar=("MODEL", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--make", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(exist_ok=True)
    if args.make:
        return make(args.work, args.make)
    if args.torch:
        return torch_run(args.work, args.torch[0], int(args.torch[1]), args.threads)
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads), RAYON_NUM_THREADS=str(args.threads))
    for model in args.models.split(","):
        # In a process of its own: the peak of a child's memory is at least that of its parent.
        itself = [sys.executable, __file__, "--craft", args.craft, "--work", str(args.work)]
        subprocess.run([*itself, "--make", model], check=True)
        weights = {"h": "hpsv2.1=" + str(args.work / "HPS_v2.1_compressed.pt"),
                   "l": "clipscore=" + str(args.work / "clip-vit-large-patch14")}[model]
        for round_ in range(args.rounds):
            for who in ("craft", "torch"):
                seconds, busy, scores, memory = {}, {}, [], 0
                for count in (args.few, args.many):
                    paths = [str(p) for p in pictures(args.work, count)]
                    if who == "craft":
                        command = [args.craft, "-q", "score", "--reward", weights, "--prompt", PROMPT, *paths]
                    else:
                        command = [*itself, "--threads", str(args.threads), "--torch", model, str(count)]
                    seconds[count], busy[count], rss, output = measure(command, env)
                    memory = max(memory, rss)
                    lines = output.decode().strip().split("\n")
                    scores = (json.loads(lines[-1]) if who == "torch"
                              else [list(json.loads(line)["scores"].values())[0] for line in lines])
                rate = (args.many - args.few) / (seconds[args.many] - seconds[args.few])
                load = seconds[args.few] - args.few / rate
                cost = (busy[args.many] - busy[args.few]) / (args.many - args.few)
                print(f"ViT-{model.upper()}/14 round {round_ + 1} {who:5}: {rate:.2f} images/s "
                      f"({cost:.2f} CPU seconds an image), loading {load:.1f} s, peak {memory:.0f} MiB, first score {scores[0]:.6f}", flush=True)


main()
