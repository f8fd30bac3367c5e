"""Every seed of the demo's world, in one place; world.json repeats them."""

SEEDS = {
    "prompts": 11,
    "vae": 101,
    "scenes": 102,
    "diffusion": 103,
    "sdxl": 104,
    "clip": 201,
    "pickscore": 202,
    "hpsv2": 203,
    "aesthetic": 204,
    "jobs": 301,
    "annotators": 302,
    "pickscore_preferences": 401,
    "hpsv2_preferences": 402,
}
