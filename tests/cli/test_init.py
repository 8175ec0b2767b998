"""`moevit init`: a random model that the other commands take."""

from pathlib import Path

from moevit.model.checkpoint import load


def test_init(moevit, tmp_path: Path) -> None:
    out, again = tmp_path / "m.safetensors", tmp_path / "again.safetensors"
    for path in (out, again):
        status, _, error = moevit("init", "--image-size", "32x64", "--seed", "3", "-o", str(path))
        assert status == 0, error
    assert load(out).config.image == (32, 64)
    assert again.read_bytes() == out.read_bytes()


def test_bad_image_size(moevit, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    for size, text in (("32", "expected HxW"), ("33x64", "multiple of patch")):
        status, _, error = moevit("init", "--image-size", size, "-o", str(out))
        assert status == 2
        assert text in error
        assert not out.exists()


def test_settings(moevit, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    settings = ("gate=conditioned", "gate_input_ahead=yes", "experts_per_task=4", "top_k=3")
    settings += ("expert_starts=0,1,2,3,4", "moe_mlp_ratio=2", "prune_threshold=0.05")
    settings += ("activation=gelu", "expert_activation=silu")
    given = [part for text in settings for part in ("--set", text)]
    status, _, error = moevit("init", "--image-size", "32x64", *given, "-o", str(out))
    assert status == 0, error
    config = load(out).config
    assert (config.gate, config.gate_task_dim, config.gate_input_ahead) == ("conditioned", 48, True)
    assert (config.experts_per_task, config.expert_starts) == (4, (0, 1, 2, 3, 4))
    assert (config.activation, config.experts_activation) == ("gelu", "silu")
    assert (config.top_k, config.expert_hidden, config.prune_threshold) == (3, 192, 0.05)


def test_bad_settings(moevit, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    for setting, text in (
        ("moe_mlp_ratio=inf", "expected a number above 0, not inf"),
        ("colour=1", "'colour=1' is no NAME=VALUE with a name of gate, "),
        ("top_k", "'top_k' is no NAME=VALUE"),
        ("top_k=a", "--set top_k: expected a whole number, not 'a'"),
        ("gate=two", "--set gate: expected multi or one or conditioned, not 'two'"),
        ("renormalise=2", "--set renormalise: expected yes or no, not '2'"),
        ("top_k=9", "--set: Model top_k 9 must be at most experts 8"),
        ("moe_mlp_ratio=0", "--set moe_mlp_ratio: expected a number above 0, not 0.0"),
    ):
        status, _, error = moevit("init", "--set", setting, "-o", str(out))
        assert status == 2
        assert text in error
        assert not out.exists()
