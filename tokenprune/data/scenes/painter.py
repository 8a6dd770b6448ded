"""From an arrangement to pixels, in integers: the same picture on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tokenprune.data.scenes.atlas import LEVELS, glyph_sprite, plate_sprite, texels
from tokenprune.data.scenes.draws import Draws
from tokenprune.data.scenes.placement import UPRIGHT, Arrangement, Rotation, SceneObject, Sign
from tokenprune.data.scenes.styles import UNIT
from tokenprune.data.scenes.world import COLORS

__all__ = ["Painting", "Part", "paint", "paint_clip", "paint_parts"]

_NATURAL, _TINTED, _FLAT = 0, 1, 2
_GRIDS = ((3, 45), (9, 28), (40, 20))
"""Cells a side of each layer of the background's noise, and its largest amplitude in grey levels."""


@dataclass(frozen=True)
class Painting:
    """A picture, and what is seen where.

    Attributes
    ----------
    image : array of uint8, (height, width, 3)
    owner : array of uint8, (height, width)
        1 + the index of the object, or of the sign counted after all objects; 0 is background.
    letter : array of uint8, (height, width)
        1 + the index of the character among those of all signs; 0 elsewhere.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    letter: NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Where a frame of a clip differs from what stays.

    Attributes
    ----------
    rows, columns : slice
        Pixels of the frame.
    painting : Painting
        What is there; labels are those of the whole frame.
    """

    rows: slice
    columns: slice
    painting: Painting


@dataclass(frozen=True)
class _Stamp:
    """One sprite to be painted; lengths in units."""

    sprite: int
    x: int
    y: int
    width: int
    height: int
    mode: int
    color: tuple[int, int, int]
    rotation: Rotation = UPRIGHT
    mirrored: bool = False
    gain: int = 256
    opacity: int = 256


def _object_stamp(thing: SceneObject) -> _Stamp:
    return _Stamp(
        thing.category,
        thing.x,
        thing.y,
        thing.size,
        thing.size,
        _NATURAL if thing.color is None else _TINTED,
        thing.shade,
        thing.rotation,
        thing.mirrored,
        thing.gain,
    )


def _plate_stamp(sign: Sign) -> _Stamp:
    return _Stamp(plate_sprite(), sign.x, sign.y, sign.width, sign.height, _FLAT, COLORS[sign.color])


def _letter_stamps(sign: Sign) -> Iterable[_Stamp]:
    red, green, blue = COLORS[sign.color]
    ink = 10 if 30 * red + 59 * green + 11 * blue > 12750 else 247
    first = sign.x - sign.pitch * (len(sign.text) - 1) // 2
    for i, character in enumerate(sign.text.upper()):
        sprite = glyph_sprite(sign.font, character)
        x = first + sign.pitch * i
        yield _Stamp(sprite, x, sign.y, sign.pitch * 21 // 25, sign.letter, _FLAT, (ink, ink, ink))


def paint(arrangement: Arrangement, draws: Draws, natural: bool = False) -> Painting:
    """Paint an arrangement on a background of its own.

    Parameters
    ----------
    arrangement : Arrangement
    draws : Draws
        For the background and the noise.
    natural : bool, default False
        A ground with a 1/f spectrum, clutter and shadows; small things lie on large ones.
    """
    width, height = arrangement.size
    owner = np.zeros((height, width), np.uint8)
    letter = np.zeros((height, width), np.uint8)
    things = [_object_stamp(thing) for thing in arrangement.objects] + [
        _plate_stamp(sign) for sign in arrangement.signs
    ]
    if natural:
        image = _natural_ground(draws, (height, width), things)
        for layer in _layers(things):
            _stamp(image, owner, [things[i] for i in layer], [i + 1 for i in layer])
    else:
        image = _background(draws, (height, width))
        _stamp(image, owner, things)
    _stamp(image, letter, [stamp for sign in arrangement.signs for stamp in _letter_stamps(sign)])
    noisy = _noise(draws, (height, width))
    noisy += image
    return Painting(np.clip(noisy, 0, 255, out=noisy).astype(np.uint8), owner, letter)


def _layers(stamps: Sequence[_Stamp]) -> list[list[int]]:
    """Which stamps to paint together so that none of a layer touch, and small ones come after large ones below them."""
    depth: dict[int, int] = {}
    for i in sorted(range(len(stamps)), key=lambda i: (-stamps[i].width, i)):
        below = [depth[j] for j in depth if _near(stamps[i], stamps[j])]
        depth[i] = max(below, default=-1) + 1
    return [[i for i in depth if depth[i] == layer] for layer in range(max(depth.values(), default=-1) + 1)]


def _near(a: _Stamp, b: _Stamp) -> bool:
    reach = a.width + a.height + b.width + b.height  # half the turned sides, at most, plus the rounding
    return abs(a.x - b.x) * 2 <= reach and abs(a.y - b.y) * 2 <= reach


def paint_clip(arrangements: Sequence[Arrangement], draws: Draws) -> tuple[Painting, ...]:
    """Paint frames that share their background and noise; each is what :func:`paint` makes of its arrangement.

    Parameters
    ----------
    arrangements : sequence of Arrangement
        One a frame, all of one size and with the same signs.
    draws : Draws
        For the background and the noise.
    """
    still, parts = paint_parts(arrangements, draws)
    there = _shared(arrangements)
    found = []
    for arrangement, part in zip(arrangements, parts, strict=True):
        more = len(arrangement.objects) - there
        # signs are counted after all objects
        owner = still.owner + np.uint8(more) * (still.owner > there)
        image, letter = still.image.copy(), still.letter.copy()
        if part is not None:
            for whole, own in ((image, part.painting.image), (owner, part.painting.owner)):
                whole[part.rows, part.columns] = own
        found.append(Painting(image, owner, letter))
    return tuple(found)


def _shared(arrangements: Sequence[Arrangement]) -> int:
    """How many objects, from the first, are in all arrangements."""
    alike = 0
    for ones in zip(*(arrangement.objects for arrangement in arrangements), strict=False):
        if any(one != ones[0] for one in ones):
            break
        alike += 1
    return alike


def paint_parts(arrangements: Sequence[Arrangement], draws: Draws) -> tuple[Painting, tuple[Part | None, ...]]:
    """Paint what stays in all frames once, and of each frame what differs from that: a tenth of the work.

    Parameters
    ----------
    arrangements : sequence of Arrangement
        As of :func:`paint_clip`. What moves comes after what stays.
    draws : Draws

    Returns
    -------
    still : Painting
        Without what moves.
    parts : tuple of (Part or None)
        One a frame; None where nothing else is there.
    """
    width, height = arrangements[0].size
    shape, there = (height, width), _shared(arrangements)
    ground = _background(draws, shape)
    noise = _noise(draws, shape)
    stays = [_object_stamp(thing) for thing in arrangements[0].objects[:there]]
    plates = [_plate_stamp(sign) for sign in arrangements[0].signs]
    letters = [stamp for sign in arrangements[0].signs for stamp in _letter_stamps(sign)]

    def noisy(image: NDArray[np.uint8], rows: slice, columns: slice) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = np.clip(noise[rows, columns] + image[rows, columns], 0, 255).astype(np.uint8)
        return found

    everything = slice(None)
    image, owner, letter = ground.copy(), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    _stamp(image, owner, [*stays, *plates])
    _stamp(image, letter, letters)
    still = Painting(noisy(image, everything, everything), owner, letter)
    parts: list[Part | None] = []
    for arrangement in arrangements:
        moving = [_object_stamp(thing) for thing in arrangement.objects[there:]]
        if not moving:
            parts.append(None)
            continue
        rows, columns = _hull([_reach(stamp, shape) for stamp in moving])
        if any(_near(one, other) for one in moving for other in (*stays, *plates)):
            # sprites reach beyond what is seen of them, and the last one counts: all in one pass, as in a picture
            frame, seen = ground.copy(), np.zeros(shape, np.uint8)
            _stamp(frame, seen, [*stays, *moving, *plates])
            _stamp(frame, np.zeros(shape, np.uint8), letters)
        else:
            frame, seen = image.copy(), owner + np.uint8(len(moving)) * (owner > there)
            _stamp(frame, seen, moving, range(there + 1, there + 1 + len(moving)))
        parts.append(
            Part(rows, columns, Painting(noisy(frame, rows, columns), seen[rows, columns], letter[rows, columns]))
        )
    return still, tuple(parts)


def _hull(places: Sequence[tuple[slice, slice]]) -> tuple[slice, slice]:
    rows, columns = (
        slice(min(place[axis].start for place in places), max(place[axis].stop for place in places)) for axis in (0, 1)
    )
    return rows, columns


def _random_bytes(draws: Draws, n: int) -> NDArray[np.uint8]:
    # the raw stream of a bit generator is fixed for good; its byte order here does not depend on the machine's
    seed = draws.below(2**31)
    return np.random.PCG64(seed).random_raw(-(-n // 8)).astype("<u8").view(np.uint8)[:n]


@cache
def _stretch(cells: int, side: int) -> NDArray[np.float32]:
    """Weights (side, cells) that stretch a row of cells to a row of pixels, in parts of 64."""
    last = side - 1
    position = np.arange(side, dtype=np.int64) * (cells - 1) * 64 // last
    cell = np.minimum(position // 64, cells - 2)
    weights = np.zeros((side, cells), np.int64)
    rows = np.arange(side)
    weights[rows, cell] = 64 - (position - 64 * cell)
    weights[rows, cell + 1] = position - 64 * cell
    return weights.astype(np.float32)


def _soft(draws: Draws, shape: tuple[int, int], layers: Iterable[tuple[int, int, int]]) -> NDArray[np.int32]:
    """Sum of layers of soft noise: (3, height, width).

    Parameters
    ----------
    draws : Draws
    shape : tuple of int
        Height and width.
    layers : iterable of (rows, columns, amplitude)
        Cells down and across, and the largest amplitude in eighths of a grey level. Read one by one, between draws.
    """
    left, right = [], []
    for rows, columns, amplitude in layers:
        values = _random_bytes(draws, 3 * rows * columns).reshape(3, rows, columns).astype(np.int64) - 128
        values = (values * 9 + values.sum(0) * 11 // 3) // 20
        # every number here is an integer below 2**24, which float32 holds exactly: the order of a sum cannot matter
        left.append(_stretch(rows, shape[0]) @ (values * amplitude // 256).astype(np.float32))
        right.append(_stretch(columns, shape[1]))
    soft = np.concatenate(left, 2) @ np.concatenate(right, 1).T
    return soft.astype(np.int32) >> 15


def _finished(image: NDArray[np.int32]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.clip(image, 0, 255, out=image).astype(np.uint8).transpose(1, 2, 0))


def _background(draws: Draws, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a colour, three layers of soft noise, and often stripes: (height, width, 3)."""
    base = [draws.below(256) for _ in range(3)]
    grey = sum(base) // 3
    colors = [(grey + (c - grey) * 11 // 20) * 4 // 5 + 25 for c in base]
    image = _soft(draws, shape, ((cells, cells, draws.between(0, 8 * most)) for cells, most in _GRIDS))
    if draws.chance(50):
        image += _stripes(draws, shape)
    image += np.array(colors, np.int32)[:, None, None]
    return _finished(image)


def _natural_ground(draws: Draws, shape: tuple[int, int], things: Sequence[_Stamp]) -> NDArray[np.uint8]:
    """Draw a ground whose amplitude falls with frequency, clutter on it, and the shadows of things."""
    base = [draws.below(256) for _ in range(3)]
    grey = sum(base) // 3
    colors = [(grey + (c - grey) * 11 // 20) * 3 // 5 + 50 for c in base]
    contrast, longer = draws.between(400, 1600), max(shape)
    octaves = (3, 6, 12, 24, 48)
    layers = [
        (max(2, cells * shape[0] // longer), max(2, cells * shape[1] // longer), contrast * 3 // cells)
        for cells in octaves
    ]
    image = _soft(draws, shape, layers)
    image += np.array(colors, np.int32)[:, None, None]
    ground = _finished(image)
    unseen = np.zeros(shape, np.uint8)
    height, width = shape
    for _ in range(2):
        # two passes: pieces of clutter that lie on others hide them
        pieces = [_piece(draws, (width, height), colors) for _ in range(draws.between(4, 14))]
        _stamp(ground, unseen, pieces)
        if draws.chance(50):
            ground = _blurred(ground)
    dx, dy = draws.between(-10, 10), draws.between(2, 12)  # in parts of 64 of a thing's side
    shadows = [
        replace(
            thing,
            mode=_FLAT,
            color=(0, 0, 0),
            opacity=120,
            x=thing.x + thing.width * dx // 64,
            y=thing.y + thing.height * dy // 64,
        )
        for thing in things
    ]
    _stamp(ground, unseen, shadows)
    return ground


def _piece(draws: Draws, size: tuple[int, int], colors: Sequence[int]) -> _Stamp:
    """Draw a piece of clutter: a plate of any proportions and of nearly the ground's colour."""
    x, y = (draws.between(0, side * UNIT) for side in size)
    width, height = (draws.between(5 * UNIT, 40 * UNIT) for _ in range(2))
    red, green, blue = (min(max(c + draws.between(-45, 45), 0), 255) for c in colors)
    turned = Rotation(draws.between(-127, 127))
    return _Stamp(
        plate_sprite(), x, y, width, height, _FLAT, (red, green, blue), turned, opacity=draws.between(110, 256)
    )


def _blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of each pixel and its neighbours, nearer ones counting twice; the border stays."""
    wide = image.astype(np.uint16)
    rows = wide.copy()
    rows[1:-1] = wide[:-2] + 2 * wide[1:-1] + wide[2:] >> 2
    found = rows.copy()
    found[:, 1:-1] = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] >> 2
    return found.astype(np.uint8)


def _stripes(draws: Draws, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Stripes of any direction, 3 to 34 pixels apart and up to 23 grey levels strong: (3, height, width)."""
    cosine, sine = Rotation(draws.between(-127, 127)).scaled
    step = draws.between(30, 330)  # of a period of 1024, a pixel
    down, across = (np.arange(side) * (part * step) >> 14 for side, part in zip(shape, (sine, cosine), strict=True))
    wave = np.abs((down[:, None] + across[None, :] & 1023) - 512) - 256
    strength = np.array([draws.between(0, 23) for _ in range(3)])
    result: NDArray[np.int32] = (wave[None] * strength[:, None, None] >> 8).astype(np.int32)
    return result


@cache
def _noise_of_byte() -> NDArray[np.int16]:
    byte = np.arange(256)
    return (((byte & 15) + (byte >> 4) - 15) * 3 >> 2).astype(np.int16)


def _noise(draws: Draws, shape: tuple[int, int]) -> NDArray[np.int16]:
    values = _noise_of_byte()[_random_bytes(draws, shape[0] * shape[1] * 3)]
    return values.reshape(*shape, 3)


def _reach(stamp: _Stamp, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of pixels that a stamp may touch."""
    cosine, sine = stamp.rotation.scaled
    across = (abs(cosine) * stamp.width + abs(sine) * stamp.height) // (2 * UNIT << 14) + 2
    down = (abs(sine) * stamp.width + abs(cosine) * stamp.height) // (2 * UNIT << 14) + 2
    rows, columns = (
        slice(max(centre // UNIT - r, 0), min(centre // UNIT + r + 1, side))
        for centre, r, side in zip((stamp.y, stamp.x), (down, across), shape, strict=True)
    )
    return rows, columns


def _texture(
    stamp: _Stamp, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Which pixels a stamp may touch, and where in its sprite they fall.

    Returns
    -------
    tuple
        Flat pixel indices, columns and rows in 2**-8 texel (all of one length), and the level.
    """
    cosine, sine = stamp.rotation.scaled
    ys, xs = (np.arange(place.start, place.stop) for place in _reach(stamp, shape))
    biggest = max(stamp.width, stamp.height)
    level = 0 if biggest > 40 * UNIT else 1 if biggest > 18 * UNIT else 2
    side = LEVELS[level]
    dx, dy = xs * UNIT + UNIT // 2 - stamp.x, ys * UNIT + UNIT // 2 - stamp.y
    # columns and rows are sums of a part that depends on x and a part that depends on y
    column = (cosine * side * dx // (stamp.width >> 1) >> 7, sine * side * dy // (stamp.width >> 1) >> 7)
    row = (-sine * side * dx // (stamp.height >> 1) >> 7, cosine * side * dy // (stamp.height >> 1) >> 7)
    u = column[0][None, :] + column[1][:, None]
    v = row[0][None, :] + row[1][:, None]
    if stamp.mirrored:
        u = -u
    u, v = u + side * 128, v + side * 128
    inside = (u > 0) & (u < side * 256) & (v > 0) & (v < side * 256)
    pixels = (ys * shape[1])[:, None] + xs[None, :]
    return pixels[inside], u[inside], v[inside], level


def _stamp(
    image: NDArray[np.uint8], seen: NDArray[np.uint8], stamps: Sequence[_Stamp], labels: Sequence[int] = ()
) -> None:
    """Paint stamps in one pass, and note in ``seen`` which is where, by its label (1, 2, ... if there are none).

    Where stamps overlap, the last one is painted on what was there before.
    """
    if not stamps:
        return
    table, starts = texels()
    parts = [_texture(stamp, seen.shape) for stamp in stamps]
    lengths = [len(part[0]) for part in parts]

    def spread(values: list[int] | NDArray[np.int32]) -> NDArray[np.int32]:
        return np.repeat(np.asarray(values, np.int32), lengths, axis=0)

    pixels, u, v = (np.concatenate([part[i] for part in parts]) for i in range(3))
    sides = spread([LEVELS[part[3]] for part in parts])
    bases = spread([starts[p[3]] + s.sprite * LEVELS[p[3]] ** 2 for s, p in zip(stamps, parts, strict=True)])
    # the middle of the first texel is at half a texel; what lies further out is that texel
    u, v = (np.clip(w - 128, 0, (sides - 1) * 256 - 1).astype(np.int32) for w in (u, v))
    corners = bases + (v >> 8) * sides + (u >> 8)
    fu, fv = (u & 255)[:, None], (v & 255)[:, None]

    def corner(index: NDArray[np.int32]) -> NDArray[np.int32]:
        return table[index].astype(np.int32)

    upper = corner(corners) * (256 - fu) + corner(corners + 1) * fu
    lower = corner(corners + sides) * (256 - fu) + corner(corners + sides + 1) * fu
    texel = upper * (256 - fv) + lower * fv + 32768 >> 16
    if any(s.opacity < 256 for s in stamps):
        texel = texel * spread([s.opacity for s in stamps])[:, None] >> 8
    alpha = texel[:, 3:]
    modes = spread([s.mode for s in stamps])[:, None]
    colors = spread(np.array([s.color for s in stamps], np.int32))
    light = (texel[:, :3] @ np.array([77, 150, 29], np.int32) >> 8)[:, None]
    # a tint keeps the sprite's light and dark; black keeps a little light, or its inside could not be seen
    tinted = colors * (light * 205 + alpha * 51) >> 16
    tinted += np.where(colors.sum(1, keepdims=True) < 102, light * 56 >> 8, 0)
    rgb = np.where(modes == _NATURAL, texel[:, :3], np.where(modes == _TINTED, tinted, colors * alpha // 255))
    rgb = np.minimum(rgb * spread([s.gain for s in stamps])[:, None] >> 8, 255)
    flat = image.reshape(-1, 3)
    flat[pixels] = (flat[pixels].astype(np.int32) * (255 - alpha) // 255 + rgb).clip(0, 255).astype(np.uint8)
    hit = alpha[:, 0] > 127
    seen.reshape(-1)[pixels[hit]] = spread(list(labels) or list(range(1, len(stamps) + 1)))[hit]
