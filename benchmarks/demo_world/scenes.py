"""The scene world: a small grammar of captions, and a renderer of perfect drawings of them.

A scene is one object in the middle, or two objects side by side or one over the other, on a plain
background. Objects carry a size, a colour and a shape. A caption names all of it, nothing else varies
but a small jitter of place and size, so a caption and a picture either agree or they do not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]  # (height, width, 3), RGB in [0, 1]
RGB = NDArray[np.float32]  # (3,), in [0, 1]


def _rgb(red: float, green: float, blue: float) -> RGB:
    return np.array([red, green, blue], dtype=np.float32)


IMAGE_SIZE_PX = 64
SIZE_RADII_PX = {"small": 7.0, "large": 12.0}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS: dict[str, RGB] = {
    "red": _rgb(0.88, 0.12, 0.14),
    "green": _rgb(0.10, 0.62, 0.22),
    "blue": _rgb(0.13, 0.27, 0.86),
    "yellow": _rgb(0.98, 0.84, 0.10),
    "purple": _rgb(0.52, 0.16, 0.62),
    "orange": _rgb(0.98, 0.52, 0.06),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": _rgb(0.97, 0.97, 0.97),
    "black": _rgb(0.06, 0.06, 0.07),
    "grey": _rgb(0.55, 0.56, 0.58),
    "pink": _rgb(0.98, 0.72, 0.78),
    "cyan": _rgb(0.50, 0.88, 0.92),
}
# Centres (x, y) of the first and second object. Jittered objects never cross the middle line, so the
# halves of a two-object picture can be judged apart (truth.py leans on that).
RELATION_CENTRES_PX = {
    "above": ((32.0, 16.0), (32.0, 48.0)),
    "below": ((32.0, 48.0), (32.0, 16.0)),
    "left of": ((16.0, 32.0), (48.0, 32.0)),
    "right of": ((48.0, 32.0), (16.0, 32.0)),
}
SINGLE_CENTRE_PX = (32.0, 32.0)
POSITION_JITTER_PX = 2.5
RADIUS_JITTER = 0.1  # relative


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One or two things on a background; `relation` is None exactly when there is one thing."""

    things: tuple[Thing, ...]
    relation: str | None
    background: str

    @property
    def caption(self) -> str:
        what = f" {self.relation} a ".join(str(thing) for thing in self.things)
        return f"a {what} on a {self.background} background"

    @property
    def centres_px(self) -> tuple[tuple[float, float], ...]:
        return RELATION_CENTRES_PX[self.relation] if self.relation else (SINGLE_CENTRE_PX,)


def parse_caption(caption: str) -> Scene:
    """The scene that a caption of the grammar names.

    Raises: ValueError when the text is not a caption of this grammar.
    """
    try:
        body, background = caption.removeprefix("a ").removesuffix(" background").split(" on a ")
        relation = next((word for word in RELATION_CENTRES_PX if f" {word} a " in body), None)
        parts = body.split(f" {relation} a ") if relation else [body]
        scene = Scene(tuple(Thing(*part.split(" ")) for part in parts), relation, background)
    except (TypeError, ValueError):
        raise ValueError(f"not a caption of the demo's grammar: {caption[:80]!r}") from None
    if scene.caption != caption or not is_known(scene):
        raise ValueError(f"not a caption of the demo's grammar: {caption[:80]!r}")
    return scene


def is_known(scene: Scene) -> bool:
    """Whether every word of the scene is in the lexicon."""
    things_known = all(
        thing.size in SIZE_RADII_PX and thing.colour in COLOURS and thing.shape in SHAPES for thing in scene.things
    )
    return things_known and scene.background in BACKGROUNDS


def lexicon() -> list[str]:
    """Every word that a caption can hold, sorted."""
    words = {"a", "on", "background", *SIZE_RADII_PX, *SHAPES, *COLOURS, *BACKGROUNDS}
    for relation in RELATION_CENTRES_PX:
        words.update(relation.split(" "))
    return sorted(words)


def random_thing(rng: np.random.Generator) -> Thing:
    """A thing with each word drawn evenly."""
    return Thing(_choice(rng, SIZE_RADII_PX), _choice(rng, COLOURS), _choice(rng, SHAPES))


def random_scene(rng: np.random.Generator, single_share: float = 0.25) -> Scene:
    """A scene of one thing with probability `single_share`, else of two."""
    background = _choice(rng, BACKGROUNDS)
    if rng.random() < single_share:
        return Scene((random_thing(rng),), None, background)
    return Scene((random_thing(rng), random_thing(rng)), _choice(rng, RELATION_CENTRES_PX), background)


def edit_scene(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with one word changed: the nearest wrong answer to its caption."""
    if rng.random() < 0.2:
        return replace(scene, background=_other(rng, BACKGROUNDS, scene.background))
    if scene.relation and rng.random() < 0.2:
        return replace(scene, relation=_other(rng, RELATION_CENTRES_PX, scene.relation))
    index = int(rng.integers(len(scene.things)))
    things = list(scene.things)
    things[index] = _edit_thing(rng, things[index])
    return replace(scene, things=tuple(things))


def render(scene: Scene, rng: np.random.Generator | None = None) -> Picture:
    """A perfect drawing, (64, 64, 3); with `rng` jittered in place and size, without it centred."""
    picture = np.broadcast_to(BACKGROUNDS[scene.background], (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3))
    for thing, (x_px, y_px) in zip(scene.things, scene.centres_px, strict=True):
        jitter = rng.uniform(-1, 1, 3) if rng is not None else np.zeros(3)
        alpha = shape_alpha(
            thing.shape,
            x_px + POSITION_JITTER_PX * jitter[0],
            y_px + POSITION_JITTER_PX * jitter[1],
            SIZE_RADII_PX[thing.size] * (1 + RADIUS_JITTER * jitter[2]),
        )[..., None]
        picture = picture + alpha * (COLOURS[thing.colour] - picture)
    return picture.astype(np.float32)


def shape_alpha(shape: str, x_px: float, y_px: float, radius_px: float) -> NDArray[np.float32]:
    """Coverage in [0, 1] of a shape over the canvas, (64, 64): its signed distance, cut to one pixel."""
    axis = np.arange(IMAGE_SIZE_PX, dtype=np.float32) + 0.5
    x, y = axis[None, :] - np.float32(x_px), axis[:, None] - np.float32(y_px)
    return np.clip(0.5 - _signed_distance_px(shape, x, y, radius_px), 0, 1).astype(np.float32)


def _signed_distance_px(
    shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> NDArray[np.floating]:
    """Negative inside. Exact for the circle and the ring, within a pixel at corners for the others."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.74 * radius) - 0.26 * radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.86 * radius
    if shape == "cross":
        wide = np.maximum(np.abs(x) - radius, np.abs(y) - 0.3 * radius)
        tall = np.maximum(np.abs(y) - radius, np.abs(x) - 0.3 * radius)
        return np.minimum(wide, tall)
    if shape == "triangle":  # equilateral in feel: apex up, base at 0.8 r, sides at slope 2
        sides = (2.0 * np.abs(x) - (y + radius)) / np.sqrt(np.float32(5.0))
        return np.maximum(sides, y - 0.8 * radius)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def _choice(rng: np.random.Generator, words: Iterable[str]) -> str:
    options = list(words)
    return str(options[int(rng.integers(len(options)))])


def _other(rng: np.random.Generator, words: Iterable[str], word: str) -> str:
    return _choice(rng, [option for option in words if option != word])


def _edit_thing(rng: np.random.Generator, thing: Thing) -> Thing:
    part = int(rng.integers(3))
    if part == 0:
        return replace(thing, size=_other(rng, SIZE_RADII_PX, thing.size))
    if part == 1:
        return replace(thing, colour=_other(rng, COLOURS, thing.colour))
    return replace(thing, shape=_other(rng, SHAPES, thing.shape))
