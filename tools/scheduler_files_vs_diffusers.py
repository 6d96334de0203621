"""Scheduler files as they are published, in diffusers and in craft.

    python tools/scheduler_files_vs_diffusers.py --craft target/release/craft [--seed 0] [--steps 6] [--only TEXT]

Makes the small random models of families_vs_diffusers.py (Stable Diffusion 1.5 and SDXL), gives each of them one
scheduler file after the other (classes, keys that are there, missing or null), and draws with every sampler that craft
offers. The right answer is the pipeline's own scheduler where it is of the sampler's class, and else what diffusers'
`from_config(pipe.scheduler.config)` makes of it. Where diffusers cannot draw, craft's answer is shown only. Leaves with
status 1 when a relative difference of final latents is above 1e-3, or craft refuses what diffusers draws.
Needs torch, diffusers, transformers, safetensors and Pillow (checked with torch 2.15, diffusers 0.42, transformers
5.24). Nothing else in the project needs Python.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import diffusers
import torch
from safetensors.torch import load_file

diffusers.utils.logging.set_verbosity_error()
warnings.filterwarnings("ignore")
spec = importlib.util.spec_from_file_location("families", pathlib.Path(__file__).parent / "families_vs_diffusers.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)

SAMPLERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler-a": diffusers.EulerAncestralDiscreteScheduler,
    "dpm++2m": diffusers.DPMSolverMultistepScheduler,
}
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
CLASSES = ["DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
           "DPMSolverMultistep", "DPMSolverSinglestep", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DEISMultistep",
           "UniPCMultistep", "LCM", "TCD", "DPMSolverSDE", "SASolver"]


def files():
    """Name, class in the index, content of the file."""
    for kind in CLASSES:
        kind += "Scheduler"
        yield f"{kind} bare", kind, dict(BETAS)
        yield f"{kind} offset 0, clip", kind, dict(BETAS, steps_offset=0, clip_sample=True, set_alpha_to_one=False)
        yield f"{kind} usual", kind, dict(BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
    more = {
        "offset 5": dict(steps_offset=5), "offset null": dict(steps_offset=None), "clip null": dict(clip_sample=None),
        "alpha null": dict(set_alpha_to_one=None), "alpha one": dict(set_alpha_to_one=True), "clip": dict(clip_sample=True),
        "clip range": dict(clip_sample=True, clip_sample_range=2.0), "trailing": dict(timestep_spacing="trailing"),
        "linspace": dict(timestep_spacing="linspace"), "leading": dict(timestep_spacing="leading"),
        "v": dict(prediction_type="v_prediction"), "karras": dict(use_karras_sigmas=True),
        "zero snr": dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        "zero snr null": dict(rescale_betas_zero_snr=None), "heun": dict(solver_type="heun"),
        "not lower": dict(lower_order_final=False), "lower null": dict(lower_order_final=None),
        "sigma min": dict(final_sigmas_type="sigma_min"), "trained": dict(trained_betas=[0.002 + 1e-5 * i for i in range(1000)]),
        "old keys": dict(tensor_format="pt", predict_epsilon=True, timestep_values=None, skip_prk_steps=False),
        "defaults listed": dict(steps_offset=0, clip_sample=True, _use_default_values=["steps_offset", "clip_sample"]),
        "no class": dict(_class_name=None),
        "order 1": dict(solver_order=1), "euler last": dict(euler_at_final=True),
    }
    for kind in ("DDIM", "DDPM", "PNDM", "EulerDiscrete", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep"):
        kind += "Scheduler"
        for name, keys in more.items():
            yield f"{kind} {name}", kind, dict(BETAS, **keys)
    yield "index DDIM, file PNDM", "DDIMScheduler", dict(BETAS, _class_name="PNDMScheduler")
    yield "index PNDM, file DDIM", "PNDMScheduler", dict(BETAS, _class_name="DDIMScheduler", clip_sample=True)
    yield "nothing but the class", "DDIMScheduler", {}
    yield "cosine", "DDIMScheduler", dict(beta_schedule="squaredcos_cap_v2", clip_sample=False)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--craft", type=pathlib.Path, default=pathlib.Path("target/release/craft"))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--only", default="", help="part of a file's name")
    a = p.parse_args()
    root = pathlib.Path(tempfile.mkdtemp())
    prompt, worst, bad, n = "a large red circle above a tiny blue square", 0.0, [], 0
    for family in ("sd15", "sdxl"):
        torch.manual_seed(a.seed)
        folder = root / family
        base = families.make(family, folder)
        base.set_progress_bar_config(disable=True)
        index = json.loads((folder / "model_index.json").read_text())
        for name, kind, keys in files():
            if a.only not in name:
                continue
            keys = {"_class_name": kind, "_diffusers_version": "0.6.0", **keys}
            keys = {k: v for k, v in keys.items() if k != "_class_name" or v is not None}
            (folder / "scheduler/scheduler_config.json").write_text(json.dumps(keys))
            (folder / "model_index.json").write_text(json.dumps(dict(index, scheduler=["diffusers", kind])))
            for sampler, made in SAMPLERS.items():
                noise = lambda: torch.Generator().manual_seed(a.seed)
                try:
                    own = getattr(diffusers, kind).from_pretrained(folder, subfolder="scheduler")
                    more = {} if family == "sdxl" else dict(requires_safety_checker=False)
                    pipe = type(base)(**{**base.components, "scheduler": own}, **more)
                    pipe.set_progress_bar_config(disable=True)
                    if type(own) is not made:
                        pipe.scheduler = made.from_config(pipe.scheduler.config)
                    wanted = pipe(prompt, num_inference_steps=a.steps, guidance_scale=5.0, height=32, width=48,
                                  output_type="latent", generator=noise()).images
                    if not wanted.isfinite().all():
                        raise ValueError("not finite")
                except Exception as error:  # noqa: BLE001 - whatever diffusers cannot do
                    wanted = f"{type(error).__name__}: {error}".splitlines()[0][:80]
                dumped = root / "latents.safetensors"
                dumped.unlink(missing_ok=True)
                ran = subprocess.run([
                    a.craft, "-q", "sample", "--model", folder, "--prompt", prompt, "--steps", str(a.steps),
                    "--guidance-scale", "5", "--scheduler", sampler, "--rng", "torch", "--seed", str(a.seed), "--height", "32",
                    "--width", "48", "--dump-latents", dumped, "--output", root / "a.png"], capture_output=True, text=True)
                n += 1
                title = f"{family} {name}, {sampler}"
                if isinstance(wanted, str):
                    print(f"  (diffusers: {wanted}; craft: {ran.returncode}) {title}", flush=True)
                elif ran.returncode:
                    bad.append(title)
                    print(f"REFUSED {title}: {ran.stderr.strip()[:300]}", flush=True)
                else:
                    ours = load_file(dumped)["latents"]
                    relative = ((ours - wanted).norm() / wanted.norm()).item()
                    worst = max(worst, relative)
                    if not relative < 1e-3:
                        bad.append(title)
                        print(f"DIFFERENT {relative:.1e} {title}", flush=True)
    print(json.dumps({"drawings": n, "worst": worst, "bad": len(bad)}))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
