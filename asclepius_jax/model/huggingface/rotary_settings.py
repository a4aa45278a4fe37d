"""The rotary settings of config.json: theta, the scalings of transformers, and settings of windowed layers alone."""

import math
from pathlib import Path
from typing import Any

from asclepius_jax.model.huggingface.families import GROWTH, Family, Raw
from asclepius_jax.model.huggingface.safetensors import FolderError, shown
from asclepius_jax.model.sizes import FULL, WINDOW, DecoderConfig, RopeScaling

# The largest sizes that are read, many times those of any model: beyond them a file is damaged or hostile, and listing
# the tensors of 10^9 layers would take all memory.
LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**23,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**14,
    "num_key_value_heads": 2**14,
    "head_dim": 2**14,
    "max_position_embeddings": 2**30,
    "sliding_window": 2**30,
}
LARGEST_NUMBER = 1e12  # of theta and of the numbers of a rotary scaling; float32 still computes with it
LAYER_TYPES = {"full_attention": FULL, "sliding_attention": WINDOW}
# Keys that each rotary scaling must have, and numbers that it may have.
SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}
OPTIONAL_NUMBERS = ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def read_rope(raw: Raw, family: Family, path: Path) -> tuple[float, RopeScaling | None, float | None]:
    """Theta and scaling, and the theta of windowed layers where it is their own.

    Raises FolderError for a type of scaling that the decoder does not have. transformers 5 writes all of it into
    rope_parameters, earlier versions apart. Where a file has rope_scaling too, transformers ignores rope_parameters,
    the theta in it included.
    """
    for key in ("rope_scaling", "rope_parameters"):
        if raw.get(key) and not isinstance(raw[key], dict):
            raise FolderError(f"{path}: the rotary settings {shown(raw[key])} are not a JSON object")
    if family.ropes:
        return read_two_ropes(raw, family, path)
    rope = rope_of(raw, family)
    if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
        raise FolderError(
            f"{path}: rotary settings of {shown(nested[0])} alone: this model has the same in every layer"
        )
    # A theta that stands alone: transformers 4 takes it, 5 does not.
    if rope is family.rope and raw.get("rope_theta", rope["rope_theta"]) != rope["rope_theta"]:
        raise FolderError(f"{path}: rope_theta {shown(raw['rope_theta'])} stands alone: add it to rope_parameters")
    theta = rope["rope_theta"] if "rope_theta" in rope else raw.get("rope_theta", family.theta)
    return checked_theta(theta, "rope_theta", path), read_scaling(rope, raw, family, path), None


def rope_of(raw: Raw, family: Family) -> Raw:
    """The rotary settings of all layers that transformers takes."""
    if family.rope and not raw.get("rope_scaling") and raw.get("rope_parameters") is None:
        return family.rope
    return raw.get("rope_scaling") or raw.get("rope_parameters") or {}


def read_growth(raw: Raw, family: Family, path: Path) -> dict[str, Any]:
    """How queries grow with their position, in a family that has it. Without the key, they do not."""
    if GROWTH not in family.rope:
        return {}
    rope = rope_of(raw, family)
    growth = rope.get(GROWTH, 0.0)
    if not is_number(growth) or not 0 <= growth <= LARGEST_NUMBER:
        raise FolderError(f"{path}: {GROWTH} is {shown(growth)}, which is not a number from 0 to {LARGEST_NUMBER:g}")
    return {"query_growth": float(growth), "query_period": read_original(rope, raw, family, path)}


def read_two_ropes(raw: Raw, family: Family, path: Path) -> tuple[float, RopeScaling | None, float | None]:
    """Read those of full and of windowed layers, from a nested rope_parameters or from the keys of transformers 4."""
    nested, scaling = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    if nested and not nested.keys() <= LAYER_TYPES.keys():
        raise FolderError(f"{path}: rope_parameters must hold full_attention and sliding_attention, each with its own")
    for name, value in nested.items():
        if value and not isinstance(value, dict):
            raise FolderError(f"{path}: the rotary settings {shown(value)} of {name} are not a JSON object")
    if "type" in scaling and "rope_type" not in scaling:  # transformers 4 reads it, 5 computes without scaling
        raise FolderError(f"{path}: rope_scaling has type, which transformers 5 ignores here: name it rope_type")
    full, windowed = (dict(nested.get(name) or {}) for name in ("full_attention", "sliding_attention"))
    full |= scaling
    if any(isinstance(value, dict) for value in (*full.values(), *windowed.values())):
        raise FolderError(f"{path}: the rotary settings of full_attention or sliding_attention are nested twice")
    theta = full.get("rope_theta", raw.get("rope_theta", family.theta))
    local_key = "rope_local_base_freq" if family.window_theta else "rope_theta"
    local = windowed.get("rope_theta", raw.get("rope_local_base_freq", family.window_theta))
    if family.window_theta is None:
        # transformers 4 gives windowed layers this theta, 5 the default: which one was meant cannot be known.
        if "rope_theta" not in windowed and theta != family.theta:
            raise FolderError(
                f"{path}: rope_theta {shown(theta)} of sliding_attention is not in rope_parameters: add it"
            )
        local = windowed.get("rope_theta", family.theta)
    if windowed.get("rope_type", windowed.get("type", "default")) != "default":
        raise FolderError(f"{path}: sliding_attention has a rotary scaling, which this decoder has for full_attention")
    for rope in (full, windowed):
        if rope.get("partial_rotary_factor") not in (1, None):
            raise unsupported(path, "partial_rotary_factor", rope["partial_rotary_factor"])
    found = read_scaling(full, raw, family, path)
    if found and not found.truncate:  # transformers looks for the key beside full_attention, not in it
        raise FolderError(
            f"{path}: truncate of the rotary scaling is False, which transformers ignores here: remove it"
        )
    return checked_theta(theta, "rope_theta", path), found, checked_theta(local, local_key, path)


def checked_theta(theta: Any, key: str, path: Path) -> float:
    if not is_number(theta) or not 1 < theta <= LARGEST_NUMBER:  # at 1, nothing would tell far from near
        raise FolderError(f"{path}: {key} is {shown(theta)}, which is not a number above 1, up to {LARGEST_NUMBER:g}")
    return float(theta)


def read_scaling(rope: Raw, raw: Raw, family: Family, path: Path) -> RopeScaling | None:
    if "partial_rotary_factor" not in family.optional and rope.get("partial_rotary_factor") not in (1, None):
        raise unsupported(path, "partial_rotary_factor", rope["partial_rotary_factor"])
    kind = rope["rope_type"] if "rope_type" in rope else rope.get("type", "default")
    if "longrope" in family.scalings and kind in ("su", "yarn"):  # earlier names of Phi-3 for it
        kind = "longrope"
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in family.scalings:
        raise FolderError(
            f"{path}: rotary scaling {shown(kind)} is not one of {', '.join(('default', *family.scalings))}"
        )
    if missing := [key for key in SCALINGS[kind] if rope.get(key) is None]:
        raise FolderError(f"{path}: rotary scaling {kind} is missing {', '.join(missing)}")
    numbers: Raw = {key: rope[key] for key in (*SCALINGS[kind], *OPTIONAL_NUMBERS) if rope.get(key) is not None}
    for key in ("mscale", "mscale_all_dim"):  # 0 is none to transformers
        if numbers.get(key) == 0:
            del numbers[key]
    lists: Raw = {key: numbers.pop(key) for key in ("short_factor", "long_factor") if key in numbers}
    if not all(is_number(number) and 0 < number <= LARGEST_NUMBER for number in numbers.values()):
        raise FolderError(
            f"{path}: rotary scaling {kind} has {', '.join(numbers)} {', '.join(map(shown, numbers.values()))}: they "
            "must be positive numbers"
        )
    original = 0 if kind == "linear" else read_original(rope, raw, family, path)
    if kind == "llama3":
        factor, low, high = (float(numbers[key]) for key in SCALINGS[kind])
        if low >= high:
            raise FolderError(f"{path}: rotary scaling llama3 needs low_freq_factor below high_freq_factor")
        return RopeScaling(factor, low, high, original)
    if kind == "linear":
        return RopeScaling(float(numbers["factor"]), kind="linear")
    if kind == "longrope":
        return read_longrope(numbers, lists, raw, original, path)
    return read_yarn({key: float(number) for key, number in numbers.items()}, rope, original, path)


def read_original(rope: Raw, raw: Raw, family: Family, path: Path) -> int:
    original = rope.get("original_max_position_embeddings")
    outside = raw.get("original_max_position_embeddings")
    if original is None:  # of settings for each kind of layer, transformers looks at the key within alone
        original = raw["max_position_embeddings"] if outside is None or family.ropes else outside
    if (
        type(original) is not int
        or not 1 <= original <= LARGEST["max_position_embeddings"]
        or outside not in (None, original)
    ):
        raise FolderError(
            f"{path}: original_max_position_embeddings of the rotary scaling is {shown(original)}, outside it "
            f"{shown(outside)}: it must be one positive integer"
        )
    return original


def read_yarn(numbers: dict[str, float], rope: Raw, original: int, path: Path) -> RopeScaling:
    factor, truncate = numbers["factor"], rope.get("truncate", True)
    fast, slow = numbers.get("beta_fast", 32.0), numbers.get("beta_slow", 1.0)
    if type(truncate) is not bool or fast < slow:
        raise FolderError(f"{path}: rotary scaling yarn needs beta_fast above beta_slow, and truncate true or false")
    magnitude = numbers.get("attention_factor")
    if magnitude is None:
        magnitude = yarn_magnitude(factor)
        if "mscale" in numbers and "mscale_all_dim" in numbers:
            magnitude = yarn_magnitude(factor, numbers["mscale"]) / yarn_magnitude(factor, numbers["mscale_all_dim"])
    return RopeScaling(
        factor, original_length=original, kind="yarn", beta_fast=fast, beta_slow=slow, truncate=truncate,
        magnitude=magnitude,
    )  # fmt: skip


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def read_longrope(numbers: Raw, lists: Raw, raw: Raw, original: int, path: Path) -> RopeScaling:
    head_dim = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    pairs = int(head_dim * read_fraction(raw, path)) // 2
    for key, divisors in lists.items():
        if not isinstance(divisors, list) or len(divisors) != pairs or not all(
            is_number(number) and 0 < number <= LARGEST_NUMBER for number in divisors
        ):  # fmt: skip
            raise FolderError(f"{path}: {key} of the rotary scaling must be {pairs} positive numbers")
    factor = float(numbers.get("factor", raw["max_position_embeddings"] / original))
    return RopeScaling(
        factor, original_length=original, kind="longrope",
        magnitude=float(numbers.get("attention_factor", longrope_magnitude(factor, original))),
        divisors=tuple(map(float, lists["short_factor"])), long_divisors=tuple(map(float, lists["long_factor"])),
    )  # fmt: skip


def longrope_magnitude(factor: float, original: int) -> float:
    return 1.0 if factor <= 1 or original <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def read_fraction(raw: Raw, path: Path) -> float:
    """Share of the channels of a head that are rotated."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    fraction: Any = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if not is_number(fraction) or not 0 < fraction <= 1:
        raise unsupported(path, "partial_rotary_factor", fraction)
    return float(fraction)


def unsupported(path: Path, key: str, value: Any) -> FolderError:
    return FolderError(f"{path}: {key} is {shown(value)}, which this decoder does not support")


def is_number(value: Any) -> bool:
    """Return whether a value is a finite JSON number; true and false are none, and 10^400 has no float."""
    return (type(value) is int and abs(value) <= 2**53) or (type(value) is float and math.isfinite(value))


# ---------------------------------------------------------------- writing


def written_rope(config: DecoderConfig, family: Family) -> Raw:
    scaling = config.rope_scaling and written_scaling(config, config.rope_scaling)
    growth: Raw = {}
    if GROWTH in family.rope:  # without which transformers cannot compute
        growth = {"original_max_position_embeddings": config.query_period, GROWTH: config.query_growth}
        if scaling and scaling["rope_type"] == "yarn":  # llama.cpp's converter asks for it
            growth |= {"mscale": 1.0, "mscale_all_dim": 1.0 if scaling["attention_factor"] == 1.0 else 0.0}
        scaling = scaling and {**scaling, **growth}
    found: Raw = {"rope_theta": config.rope_theta, "rope_scaling": scaling}
    if config.rotary_fraction != 1:
        found["partial_rotary_factor"] = config.rotary_fraction
    usual = {"rope_type": "default", **(scaling or growth), "rope_theta": config.rope_theta}
    if family.ropes:
        windowed = {"rope_type": "default", "rope_theta": config.window_rope_theta}
        found["rope_parameters"] = {"full_attention": usual, "sliding_attention": windowed}
        if family.window_theta:
            found["rope_local_base_freq"] = config.window_rope_theta
    elif family.rope:  # without settings, transformers would take the family's own
        found["rope_parameters"] = usual
    return found


def written_scaling(config: DecoderConfig, scaling: RopeScaling) -> Raw:
    original = {"original_max_position_embeddings": scaling.original_length}
    more: Raw
    match scaling.kind:
        case "linear":
            return {"rope_type": "linear", "factor": scaling.factor}
        case "yarn":
            betas: Raw = {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
            more = {} if scaling.truncate else {"truncate": False}
            return {
                "rope_type": "yarn", "factor": scaling.factor, **original, "attention_factor": scaling.magnitude,
                **betas, **more,
            }  # fmt: skip
        case "longrope":
            factor = config.max_length / scaling.original_length
            more = {} if scaling.factor == factor else {"factor": scaling.factor}
            if scaling.magnitude != longrope_magnitude(scaling.factor, scaling.original_length):
                more["attention_factor"] = scaling.magnitude
            lists = {"short_factor": list(scaling.divisors), "long_factor": list(scaling.long_divisors)}
            return {"rope_type": "longrope", "type": "longrope", **lists, **more}
        case _:
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                **original,
            }
