"""Each method computes, block by block, what a few lines of NumPy compute from whole tensors."""

import numpy as np
import pytest

from asclepius_jax.convert.merge.merge_methods import Recipe, least_kept, merged

SIZES = (1, 7, 64, 1000)  # elements of a block; 1000 are all


def tensors(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(0, 0.1, 300).astype(np.float32) for _ in range(count)]


def run(recipe: Recipe, models: list[np.ndarray], base: np.ndarray | None = None, size: int = 64) -> np.ndarray:
    """The result of all blocks of `size` elements, from copies that a method may overwrite."""
    blocks = [slice(start, start + size) for start in range(0, len(models[0]), size)]
    reads = [reader(x) for x in models]
    return np.concatenate([*merged(recipe, blocks, reads, None if base is None else reader(base))])


def reader(x: np.ndarray):
    return lambda block: x[block].copy()


def slerp(x: np.ndarray, y: np.ndarray, t: float) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    cosine = x / np.linalg.norm(x) @ (y / np.linalg.norm(y))
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)


def ties(base: np.ndarray, models: list[np.ndarray], weights: list[float], density: float) -> np.ndarray:
    """Algorithm 1 of arXiv 2306.01708 with weights, element by element."""
    trimmed = []
    for model in models:
        difference = model - base
        least = np.sort(np.abs(difference))[::-1][max(1, round(density * difference.size)) - 1]
        trimmed.append(np.where(np.abs(difference) >= least, difference, 0).astype(np.float64))
    result = base.astype(np.float64)
    for place in range(base.size):
        sign = np.sign(sum(weight * x[place] for weight, x in zip(weights, trimmed, strict=True)))
        agreeing = [(w, x[place]) for w, x in zip(weights, trimmed, strict=True) if sign and np.sign(x[place]) == sign]
        if agreeing:
            result[place] += sum(w * value for w, value in agreeing) / sum(w for w, _ in agreeing)
    return result


@pytest.mark.parametrize("size", SIZES)
def test_linear_is_the_sum_in_float32_to_the_bit(size: int):
    a, b, c = tensors(3)
    expected = np.float32(0.5) * a + np.float32(0.2) * b
    expected = expected + np.float32(0.3) * c
    np.testing.assert_array_equal(run(Recipe("linear", (0.5, 0.2, 0.3)), [a, b, c], size=size), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp_walks_along_the_arc(size: int, t: float):
    x, y = tensors(2)
    found = run(Recipe("slerp", (1 - t, t)), [x, y], size=size)
    np.testing.assert_allclose(found, slerp(x, y, t), atol=1e-6)
    if t in (0.0, 1.0):
        np.testing.assert_allclose(found, (x, y)[int(t)], atol=1e-7)


def test_slerp_keeps_the_length_of_vectors_of_one_length():
    x, y = (v / np.linalg.norm(v) for v in tensors(2))
    assert np.linalg.norm(run(Recipe("slerp", (0.5, 0.5)), [x, y])) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(run(Recipe("linear", (0.5, 0.5)), [x, y])) < 0.8


def test_slerp_of_nearly_parallel_and_of_zero_tensors_is_linear():
    x, noise = tensors(2)
    for y in (x, 3 * x, -x, x + np.float32(0.02) * noise, np.zeros_like(x)):
        expected = np.float32(0.7) * x + np.float32(0.3) * y
        np.testing.assert_array_equal(run(Recipe("slerp", (0.7, 0.3)), [x, y]), expected)


def test_slerp_changes_to_the_linear_formula_at_its_threshold():
    x = np.eye(300, dtype=np.float32)[0]
    for cosine, linear in ((0.99949, False), (0.99951, True)):
        y = np.zeros_like(x)
        y[:2] = cosine, np.sqrt(1 - cosine**2)
        found = run(Recipe("slerp", (0.5, 0.5)), [x, y])
        np.testing.assert_allclose(found, (x + y) / 2 if linear else slerp(x, y, 0.5), atol=1e-8)
        assert np.abs(found - (x + y) / 2).max() > 1e-5 or linear


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [(1.0,), (0.4, 0.7), (1.0, -1.0, 0.5)])
def test_task_arithmetic_adds_weighted_differences(size: int, weights: tuple[float, ...]):
    base, *models = tensors(1 + len(weights))
    expected = base.astype(np.float64)
    for weight, model in zip(weights, models, strict=True):
        expected += weight * (model.astype(np.float64) - base)
    np.testing.assert_allclose(run(Recipe("task-arithmetic", weights), models, base, size), expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.5), (0.6, 0.3, 0.1)])
def test_ties_is_the_algorithm_of_its_paper(size: int, density: float, weights: tuple[float, ...]):
    base, *models = tensors(1 + len(weights))
    found = run(Recipe("ties", weights, density), models, base, size)
    np.testing.assert_allclose(found, ties(base, models, [*weights], density), atol=1e-6)
    assert np.abs(found - base).max() > 0.01


@pytest.mark.parametrize("density", [0.1, 0.2, 0.7])
def test_ties_among_equal_magnitudes_keeps_all_of_them(density: float):
    """Values of a coarse grid: most elements have a magnitude that many others have, and opposed ones cancel."""
    random = np.random.default_rng(1)
    base, *models = (random.integers(-3, 4, 300).astype(np.float32) / 8 for _ in range(4))
    weights = (0.5, 0.25, 0.25)
    found = run(Recipe("ties", weights, density), models, base)
    np.testing.assert_allclose(found, ties(base, models, [*weights], density), atol=1e-6)


def test_ties_leaves_an_element_whose_mass_cancels():
    base, change = tensors(2)
    found = run(Recipe("ties", (0.5, 0.25, 0.25), 1.0), [base + change, base - change, base - change], base)
    x, y, z = (model - base for model in (base + change, base - change, base - change))
    cancels = 0.5 * x.astype(np.float64) + 0.25 * y + 0.25 * z == 0
    assert cancels.sum() > 50
    np.testing.assert_array_equal(found[cancels], base[cancels])
    assert (found != base)[~cancels].any()


def test_models_that_equal_their_base_merge_to_it():
    base, other = tensors(2)
    for recipe in (Recipe("ties", (0.5, 0.5), 0.2), Recipe("task-arithmetic", (0.5, 0.5))):
        np.testing.assert_array_equal(run(recipe, [base, base], base), base)
    np.testing.assert_array_equal(run(Recipe("ties", (0.5, 0.5), 1.0), [base, other], base), base + (other - base))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kept", [1, 2, 150, 299, 300])
def test_the_kth_largest_magnitude_is_exact(size: int, kept: int):
    """Over all of float32: subnormal numbers, zeros of both signs, neighbours in the last bit."""
    random = np.random.default_rng(2)
    bits = random.integers(0, 0x7F800000, 300, dtype=np.uint32)
    bits[:50] = random.integers(0x3F800000, 0x3F800004, 50)
    bits[50:80], bits[80:100] = random.integers(0, 3, 30), 0
    x = (bits | random.integers(0, 2, 300, dtype=np.uint32) << 31).view(np.float32)
    blocks = [slice(start, start + size) for start in range(0, 300, size)]
    least = least_kept(blocks, [reader(x)], reader(np.zeros_like(x)), kept / 300)
    assert least == [np.sort(bits)[::-1][kept - 1]]
