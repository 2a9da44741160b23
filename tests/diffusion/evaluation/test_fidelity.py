import json

import numpy as np
import pytest
from PIL import Image
from scipy.linalg import sqrtm

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.fidelity import FrechetDistance, PictureFolder, frechet_distance
from diffpo.lab.scenes.scorer import SceneRenders
from diffpo.scorers import CLIPScore

CLIP = "assets/tiny-clip"


def encoder() -> CLIPScore:
    return CLIPScore(CLIP, device="cpu", batch_size=8)


def correlated(rng: np.random.Generator, n: int, d: int, shift: float) -> np.ndarray:
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


def save_noise(folder, n: int, low: int, high: int) -> list:
    folder.mkdir()
    rng, files = np.random.default_rng(low), [folder / f"{i}.png" for i in range(n)]
    for file in files:
        Image.fromarray(rng.integers(low, high, size=(32, 32, 3), dtype=np.uint8)).save(file)
    return files


@pytest.mark.parametrize(("n", "m"), [(200, 300), (5, 300)])
def test_it_is_the_published_formula_also_where_covariances_lack_rank(n, m):
    rng = np.random.default_rng(0)
    ours, theirs = correlated(rng, n, 6, 0.0), correlated(rng, m, 6, 1.0)
    covariances = [np.cov(features, rowvar=False) for features in (ours, theirs)]
    root = np.real(np.asarray(sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(6))))
    apart = ours.mean(0) - theirs.mean(0)
    expected = apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-4)


def test_of_one_dimension_it_is_the_difference_of_means_and_of_deviations():
    ours, theirs = np.array([[-1.0], [1.0]]), np.array([[2.0], [8.0]])
    assert frechet_distance(ours, theirs) == pytest.approx(5**2 + (np.sqrt(18) - np.sqrt(2)) ** 2)


def test_a_set_is_at_no_distance_from_itself_and_nearer_to_its_like(tmp_path):
    dark, darker = save_noise(tmp_path / "dark", 12, 0, 100), save_noise(tmp_path / "darker", 12, 1, 100)
    bright = save_noise(tmp_path / "bright", 12, 100, 255)
    distance = FrechetDistance(PictureFolder(tmp_path / "dark"), encoder())
    assert distance(dark) == pytest.approx(0, abs=1e-6)
    assert 0 < distance(darker) < distance(bright)


def test_renders_are_nearer_to_other_renders_than_their_blurred_copies(tmp_path):
    distance = FrechetDistance(SceneRenders(count=60), encoder())
    sharp, blurred = [], []
    for i, picture in enumerate(SceneRenders(count=60, seed=1).pictures()):
        sharp.append(tmp_path / f"{i}.png")
        blurred.append(tmp_path / f"{i}-blurred.png")
        picture.save(sharp[-1])
        picture.resize((6, 6)).resize(picture.size).save(blurred[-1])
    assert 0 < distance(sharp) < distance(blurred)


def test_what_cannot_be_read_is_left_out_and_told(tmp_path, caplog):
    files = save_noise(tmp_path / "some", 6, 0, 200)
    distance = FrechetDistance(PictureFolder(tmp_path / "some"), encoder())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert distance([*files, tmp_path / "broken.png"]) == pytest.approx(0, abs=1e-6)
    assert "broken.png has no part in the Fréchet distance" in caplog.text
    (tmp_path / "some" / "6.png").write_bytes(b"no picture either")
    broken = FrechetDistance(PictureFolder(tmp_path / "some"), encoder())
    assert broken(files) == pytest.approx(0, abs=1e-6)
    assert broken.identity["reference_pictures"] == 6


def test_the_identity_says_what_the_number_depends_on(tmp_path):
    save_noise(tmp_path / "some", 6, 0, 200)
    said = FrechetDistance(PictureFolder(tmp_path / "some"), encoder()).identity
    assert said["encoder"] == CLIP
    assert said["reference_pictures"] == 6
    assert said["features"] == 64
    assert said["reference"] == {"folder": str(tmp_path / "some")}
    json.dumps(said)


def test_too_little_to_compare_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="holds no"):
        FrechetDistance(PictureFolder(tmp_path / "empty"), encoder()).check(9)
    files = save_noise(tmp_path / "some", 3, 0, 200)
    with pytest.raises(Refusal, match="two pictures"):
        FrechetDistance(PictureFolder(tmp_path / "some"), encoder())(files[:1])
    with pytest.raises(Refusal, match="two pictures"):
        FrechetDistance(PictureFolder(tmp_path / "some"), encoder()).check(1)


def test_an_encoder_that_is_not_there_is_refused_first(tmp_path):
    save_noise(tmp_path / "some", 3, 0, 200)
    with pytest.raises(Refusal):
        FrechetDistance(PictureFolder(tmp_path / "some"), CLIPScore(str(tmp_path / "none"))).check(9)
