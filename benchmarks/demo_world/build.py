"""Make everything under data_manifests/demo from seeds: `python -m benchmarks.demo_world.build --work DIR`.

Costly steps leave their result in the work folder and are not done again while it is there; delete a
file of it to redo that step and those after it by hand. The rest is cheap and always made anew.
"""

import argparse
import copy
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file

from benchmarks.demo_world import aesthetic, contrastive, preferences, towers
from benchmarks.demo_world.diffusion import encode_scenes, make_pipeline, train_diffusion
from benchmarks.demo_world.drawing import control_image, draw_in_processes
from benchmarks.demo_world.pickapic import write_pairs
from benchmarks.demo_world.preferences import Preference, decode
from benchmarks.demo_world.prompts import choose_prompts
from benchmarks.demo_world.report import write_report
from benchmarks.demo_world.scenes import Picture
from benchmarks.demo_world.sdxl import make_sdxl
from benchmarks.demo_world.seeds import SEEDS
from benchmarks.demo_world.tournaments import CONTROL_UID, Job, plan_jobs, play_jobs
from benchmarks.demo_world.towers import CLIP_SIZE, HPS_SIZE, OpenClipTower, Tower, TransformersTower
from benchmarks.demo_world.truth import truth
from benchmarks.demo_world.vae import train_vae

CONTRASTIVE_STEPS = {"clip": 1500, "pickscore": 700, "hpsv2": 700}
PREFERENCE_STEPS = 250
OUT = Path("data_manifests/demo")


def main() -> None:
    """Parse options, build, report."""
    parser = argparse.ArgumentParser(description="Build the demo's miniature world.")
    parser.add_argument("--work", type=Path, required=True, help="folder outside git for what is kept between runs")
    parser.add_argument("--out", type=Path, default=OUT, help="where the world goes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the result depends on it in the last bits")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw pictures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    build(options.work, options.out, options.workers)


def build(work: Path, out: Path, workers: int) -> None:
    """The whole world, step by step."""
    train_prompts, heldout_prompts = choose_prompts(SEEDS["prompts"])
    judges = {name: build_judge(work, name) for name in ("clip", "pickscore", "hpsv2")}
    pipeline = build_diffusion(work, text_weights(judges["pickscore"]), heldout_prompts)

    jobs = plan_jobs(train_prompts, SEEDS["jobs"])
    encoded = build_pictures(work, jobs, workers)
    pictures = decode(encoded)
    truths = build_truths(work, jobs, pictures)
    rounds = play_jobs(jobs, truths, SEEDS["annotators"])
    fit, held = preferences.split_by_prompt(preferences.usable_preferences(rounds))
    for name in ("pickscore", "hpsv2"):
        judges[name] = build_fine_tuned(work, name, judges[name], fit, pictures)
    head = aesthetic.train_head(judges["clip"], list(pictures.values())[::3], SEEDS["aesthetic"])

    write_pairs(out / "pairs", rounds, encoded)
    write_prompts(out / "prompts" / "heldout.txt", heldout_prompts)
    export_models(out / "models", pipeline, judges, head)
    write_report(out / "world.json", out, rounds, truths, held, pictures, judges, head, pipeline)


def text_weights(tower: Tower) -> dict[str, torch.Tensor]:
    """The text model of a transformers judge, as `CLIPTextModel` names its weights."""
    return dict(tower.model.text_model.state_dict())


def build_diffusion(work: Path, text: Mapping[str, torch.Tensor], heldout_prompts: list[str]) -> Any:
    """The trained autoencoder and the Stable Diffusion over it; held-out prompts are not trained on."""
    vae = AutoencoderKL.from_pretrained(
        cached_folder(work / "vae", lambda folder: train_vae(SEEDS["vae"]).save_pretrained(folder))
    )

    def train(folder: Path) -> None:
        pipeline = make_pipeline(SEEDS["diffusion"], vae, text)
        scenes = encode_scenes(vae, SEEDS["scenes"], heldout_prompts)
        train_diffusion(pipeline, scenes, SEEDS["diffusion"])
        pipeline.save_pretrained(folder)

    pipeline = StableDiffusionPipeline.from_pretrained(cached_folder(work / "sd", train))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_judge(work: Path, name: str) -> Tower:
    """One judge after contrastive training."""
    torch.manual_seed(SEEDS[name])
    tower = make_tower(name)

    def train() -> dict[str, Any]:
        contrastive.train_contrastive(tower, SEEDS[name], CONTRASTIVE_STEPS[name], name)
        return tower.model.state_dict()

    tower.model.load_state_dict(cached_tensors(work / f"{name}_contrastive.pt", train))
    return tower.eval()


def make_tower(name: str) -> Tower:
    """The untrained judge of that name."""
    if name == "pickscore":
        return TransformersTower()
    return OpenClipTower(CLIP_SIZE if name == "clip" else HPS_SIZE)


def build_fine_tuned(work: Path, name: str, tower: Tower, fit: list[Preference], pictures: dict[str, Picture]) -> Tower:
    """The judge after it has seen the preferences."""

    def train() -> dict[str, Any]:
        seed = SEEDS[f"{name}_preferences"]
        preferences.fine_tune(tower, fit, pictures, seed, PREFERENCE_STEPS, name)
        return tower.model.state_dict()

    tower.model.load_state_dict(cached_tensors(work / f"{name}_tuned.pt", train))
    return tower.eval()


def build_pictures(work: Path, jobs: list[Job], workers: int) -> dict[str, bytes]:
    """Encoded pictures of all jobs by uid, and the control image."""
    orders = [order for job in jobs for order in job.orders]
    encoded: dict[str, bytes] = cached_object(
        work / "pictures.pickle", lambda: draw_in_processes(work / "sd", orders, workers)
    )
    return encoded | {CONTROL_UID: control_image()}


def build_truths(work: Path, jobs: list[Job], pictures: dict[str, Picture]) -> dict[tuple[str, str], float]:
    """Hidden truth of (prompt, image_uid), of the bytes as the annotator sees them."""

    def score() -> dict[tuple[str, str], float]:
        shown = [(job.prompt, uid) for job in jobs for uid in (CONTROL_UID, *(o.image_uid for o in job.orders))]
        return {(prompt, uid): truth(pictures[uid], prompt) for prompt, uid in shown}

    scores: dict[tuple[str, str], float] = cached_object(work / "truths.pickle", score)
    return scores


def write_prompts(path: Path, prompts: list[str]) -> None:
    """One prompt a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(prompts) + "\n", encoding="utf-8")


def export_models(folder: Path, pipeline: Any, judges: dict[str, Tower], head: torch.nn.Module) -> None:
    """Every model in the format of the real one. Big parts in float16 on disk; they load as float32."""
    twin = make_sdxl(SEEDS["sdxl"], pipeline.vae)
    for name, whole, parts in (("sd", pipeline, ("unet", "vae")), ("sdxl", twin, ("vae",))):
        whole.save_pretrained(folder / name)
        for part in parts:
            copy.deepcopy(getattr(whole, part)).half().save_pretrained(folder / name / part)
    for name, size in (("clip", CLIP_SIZE), ("hpsv2", HPS_SIZE)):
        towers.save_open_clip_config(folder / name, size)
    save_file(half_state(judges["clip"]), folder / "clip" / "open_clip_model.safetensors")
    torch.save({"state_dict": half_state(judges["hpsv2"])}, folder / "hpsv2" / "HPS_v2.1_demo.pt")
    towers.save_pickscore(judges["pickscore"], folder / "pickscore")
    torch.save(head.state_dict(), folder / "aesthetic.pth")
    forget_origins(folder)


def forget_origins(folder: Path) -> None:
    """Drop `_name_or_path`, in which diffusers keeps where on this machine a part was loaded from."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def half_state(tower: Tower) -> dict[str, torch.Tensor]:
    """The open_clip model's own state_dict in float16, as HPSv2's compressed checkpoint is."""
    return {key: value.detach().half().contiguous() for key, value in tower.model.state_dict().items()}


def cached_folder(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, made under another name first so that it is whole when it is there."""
    if not folder.exists():
        unfinished = folder.with_name(folder.name + ".unfinished")
        make(unfinished)
        unfinished.rename(folder)
    return folder


def cached_tensors(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A state_dict kept in `path`."""
    if not path.exists():
        torch.save(make(), path.with_suffix(".unfinished"))
        path.with_suffix(".unfinished").rename(path)
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def cached_object(path: Path, make: Callable[[], Any]) -> Any:
    """Any Python object kept in `path` of the work folder, which only this script writes."""
    if not path.exists():
        path.with_suffix(".unfinished").write_bytes(pickle.dumps(make()))
        path.with_suffix(".unfinished").rename(path)
    return pickle.loads(path.read_bytes())  # noqa: S301


if __name__ == "__main__":
    main()
