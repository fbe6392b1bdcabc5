"""Plays one episode before the eyes: as a GIF, as an MP4, or as text in a terminal."""

import importlib.util
import inspect
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from marlet.bridges.resolve import Factory
from marlet.engine.evaluate import LONGEST
from marlet.engine.host import HostEnv
from marlet.envs.base import Env
from marlet.errors import EnvironmentFault, MarletError, StorageFault
from marlet.runs.policy import Policy

Frame = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Episode:
    """What was seen, from the opening on, and what was earned on the way."""

    frames: list[Frame | str]
    rewards: Float[np.ndarray, "T n"]


def play(policy: Policy, env: Env | Factory, *, seed: int = 0) -> Episode:
    """One episode of a policy, drawn by the environment.

    Raises:
        MarletError: if the environment draws nothing.
    """
    policy.reset()
    return _play_host(policy, env, seed) if isinstance(env, Factory) else _play(policy, env, seed)


def _play(policy: Policy, env: Env, seed: int) -> Episode:
    open_key, step_key = jax.random.split(jax.random.key(seed))
    step = jax.jit(lambda state, action, key: env.step(state, action, key=key))
    state, now = jax.jit(lambda key: env.reset(key=key))(open_key)
    drawn = lambda: _picture(type(env).__name__, lambda: env.render(jax.device_get(state)))  # noqa: E731
    frames, rewards = [drawn()], []
    while not now.over and len(rewards) < LONGEST:
        action = policy.act(np.asarray(now.obs), available=np.asarray(now.available))
        state, now = step(state, action, jax.random.fold_in(step_key, len(rewards)))
        frames.append(drawn())
        rewards.append(np.asarray(now.reward))
    return Episode(frames, np.stack(rewards))


def _picture(name: str, draw: Callable[[], Any]) -> Frame | str:
    """What an environment draws.

    Raises:
        MarletError: if it draws nothing.
        EnvironmentFault: if it fails, or gives neither a picture nor text.
    """
    try:
        picture = draw()
    except NotImplementedError as cause:
        raise MarletError(f"{name} cannot be watched: it has no `render`. Give it one.") from cause
    except Exception as cause:
        raise EnvironmentFault(
            f"{name} cannot be watched: its `render` failed with {type(cause).__name__}: {cause}. Add --debug to see where."
        ) from cause
    if isinstance(picture, str) or np.shape(picture)[2:] == (3,):
        return picture
    raise EnvironmentFault(
        f"{name} cannot be watched: its `render` gives {'nothing' if picture is None else type(picture).__name__}, but should "
        "give a picture (height, width, 3) or text."
    )


def _play_host(policy: Policy, factory: Factory, seed: int) -> Episode:
    """The same for an environment that lives in Python. Its last frame is the one before the end."""
    drawing = Factory(factory.module, factory.attribute, {**factory.options, "render_mode": "rgb_array"})
    if not _takes_render_mode(drawing):
        raise MarletError(
            f"{factory.name} cannot be watched: let it take `render_mode`, and give the environment a `render`."
        )
    with HostEnv(drawing, 1, workers=0) as env:
        now = env.reset(seed)
        drawn = lambda: _picture(factory.name, env.render)  # noqa: E731
        frames, rewards = [drawn()], []
        while len(rewards) < LONGEST:
            action = policy.act(np.asarray(now.obs[0]), available=np.asarray(now.available[0]))
            next, now = env.step(np.asarray(action)[None])
            rewards.append(next.reward[0])
            if next.over[0]:
                break
            frames.append(drawn())
    return Episode(frames, np.stack(rewards))


def _takes_render_mode(factory: Factory) -> bool:
    """Whether the function or class can be called with `render_mode`; where that cannot be told, it is tried."""
    try:
        parameters = inspect.signature(factory.target()).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == "render_mode" or p.kind == p.VAR_KEYWORD for p in parameters)


def check_output(out: Path) -> None:
    """Refuse a place or a kind of file that cannot be written, before anything is played.

    Raises:
        MarletError: for another ending than .gif and .mp4, or an MP4 without imageio.
        StorageFault: for a place that cannot be written.
    """
    if out.suffix not in (".gif", ".mp4"):
        raise MarletError(f"{out} should end in .gif or .mp4.")
    if out.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise MarletError("An MP4 needs imageio: pip install 'marlet[video]'. Or give a name in .gif.")
    try:
        with open(out, "ab"):
            pass
    except OSError as cause:
        raise StorageFault(f"Cannot write {out}: {cause.strerror}. Choose another --out.") from cause
    if not out.stat().st_size:
        out.unlink()


def save(episode: Episode, out: Path, *, frames_per_second: float = 8.0) -> Path:
    """Write an episode as a GIF or MP4; the last frame stays for a second."""
    pictures = [painted(frame) if isinstance(frame, str) else np.asarray(frame, np.uint8) for frame in episode.frames]
    pictures = _one_size(pictures)
    if out.suffix == ".mp4":
        import imageio.v2 as imageio  # pyright: ignore[reportMissingImports]

        held = [pictures[-1]] * int(frames_per_second)
        with warnings.catch_warnings():
            # JAX warns of any fork; this one becomes ffmpeg at once and never touches a lock of JAX's.
            warnings.filterwarnings("ignore", message=r"os\.fork")
            imageio.mimwrite(out, [*pictures, *held], fps=frames_per_second, macro_block_size=2)
        return out
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    still = round(1000 / frames_per_second)
    times = [still] * (len(images) - 1) + [1000]
    images[0].save(out, save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    return out


def perform(episode: Episode, names: Sequence[str], *, seconds: float = 0.125) -> None:
    """Show an episode in a terminal, one frame after the other in the same place. Where there is none, all is printed at once,
    and of pictures only what each step earned."""
    if not sys.stdout.isatty():
        text = [frame if isinstance(frame, str) else "" for frame in episode.frames]
        print("\n".join(told(replace(episode, frames=text), names)))
        return
    for frame in told(episode, names):
        print(f"\x1b[H\x1b[J{frame}", end="", flush=True)
        time.sleep(seconds)


def told(episode: Episode, names: Sequence[str]) -> list[str]:
    """An episode as text: every frame under its step and what it earned."""
    lines = []
    for step, frame in enumerate(episode.frames):
        earned = (
            ""
            if step == 0
            else "".join(
                f"  {name} {reward:+.2f}" for name, reward in zip(names, episode.rewards[step - 1], strict=True)
            )
        )
        drawn = frame if isinstance(frame, str) else blocks(frame)
        lines.append("\n".join(part for part in (f"step {step}{earned}", drawn) if part) + "\n")
    return lines


def painted(text: str) -> Frame:
    """Text as a picture, in letters of one width: columns stay columns."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSansMono.ttf", 14)
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    image = Image.new("RGB", (int(box[2]) + 24, int(box[3]) + 24), "white")
    ImageDraw.Draw(image).multiline_text((12, 12), text, font=font, fill="black")
    return np.asarray(image)


def blocks(frame: Frame, columns: int = 60) -> str:
    """A picture in a terminal, no larger than that: each character is two pixels, one above the other, in their own colours."""
    from PIL import Image

    room = shutil.get_terminal_size()
    columns = max(2, min(columns, room.columns, 2 * (room.lines - 3) * frame.shape[1] // frame.shape[0]))
    rows = max(2, round(columns * frame.shape[0] / frame.shape[1]) // 2 * 2)
    small = np.asarray(Image.fromarray(np.asarray(frame, np.uint8)).resize((columns, rows), Image.Resampling.BOX))
    pair = lambda up, down: "\x1b[38;2;{};{};{};48;2;{};{};{}m\u2580".format(*up, *down)  # noqa: E731
    lines = ["".join(map(pair, small[y], small[y + 1])) + "\x1b[0m" for y in range(0, rows, 2)]
    return "\n".join(lines)


def _one_size(pictures: list[Frame]) -> list[Frame]:
    """Pictures padded with white to the largest, since text may grow from step to step, and to even sides, as films have."""
    height, width = (-(-max(picture.shape[axis] for picture in pictures) // 2) * 2 for axis in (0, 1))
    return [
        np.pad(p, ((0, height - p.shape[0]), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures
    ]
