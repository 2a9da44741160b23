from diffpo.train.report.ending import tell_ending


def test_two_lines_say_what_lies_where_and_how_it_is_loaded(tmp_path):
    for name in ("report.html", "curves.png", "README.md", "metrics.jsonl", "pytorch_lora_weights.safetensors"):
        (tmp_path / name).touch()
    lines = tell_ending(tmp_path, 'from a import b\n\npipe = b("c")').splitlines()
    assert lines == [
        f"{tmp_path} holds report.html, curves.png, README.md to look at, and the weights: "
        "pytorch_lora_weights.safetensors",
        'to load them: from a import b; pipe = b("c")',
    ]


def test_the_weights_of_a_whole_network_are_a_folder(tmp_path):
    (tmp_path / "unet").mkdir()
    assert tell_ending(tmp_path, "x").splitlines()[0].endswith("the weights: unet")
