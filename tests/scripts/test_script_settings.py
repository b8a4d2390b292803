"""Settings of the benchmark scripts: what overrides what, and one line for everything that has no meaning."""

import json
from pathlib import Path

import pytest
from harness.parsing import parse
from harness.settings import CPR
from train_clip import CLIPSettings
from train_gpt2 import GPT2Settings
from train_grokking import GrokkingSettings
from train_lora import LoRASettings

CONFIGS = Path(__file__).parents[2] / "configs"


def gpt2(*flags):
    return parse(GPT2Settings, "", list(flags))


def config(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


def test_flags_override_the_file_which_overrides_the_scripts_defaults(tmp_path):
    path = config(tmp_path, "lr: 3e-4\nmax_steps: 500\nbetas: [0.8, 0.9]\n")
    settings = gpt2("--config", path, "--max-steps", "300")
    assert (settings.lr, settings.max_steps, settings.betas) == (3e-4, 300, (0.8, 0.9))
    assert (settings.eps, settings.size, settings.optimizer) == (1e-9, "tiny", "adamcpr")


@pytest.mark.parametrize(
    ("flags", "parameter", "samples"),
    [
        ([], None, 4),  # Kappa-IP samples every tenth of the warmup, which has 40 steps
        (["--warmup-steps", "5"], None, 1),
        (["--reg-step-size", "7"], None, 7),
        (["--kappa-init-method", "warm_start"], 80, None),  # twice the warmup
        (["--kappa-init-method", "warm_start", "--kappa-init-param", "120"], 120, None),
        (["--kappa-init-method", "dependent", "--kappa-init-param", "0.5"], 0.5, None),
        (["--optimizer", "adamw"], None, None),
    ],
)
def test_the_papers_defaults_of_the_bounds(flags, parameter, samples):
    settings = gpt2(*flags)
    assert (settings.kappa_init_param, settings.reg_step_size) == (parameter, samples)


def test_the_warmup_is_a_tenth_of_the_training_unless_it_is_given(tmp_path):
    assert gpt2().warmup_steps == 40
    assert gpt2("--max-steps", "25").warmup_steps == 2
    assert gpt2("--max-steps", "25", "--warmup-steps", "0").warmup_steps == 0
    assert gpt2("--config", config(tmp_path, "warmup_steps: 7"), "--max-steps", "25").warmup_steps == 7
    assert parse(GrokkingSettings, "", []).warmup_steps == 0


def test_a_rule_on_the_command_line_does_not_inherit_the_parameter_of_another():
    grokking = parse(GrokkingSettings, "", ["--kappa-init-method", "warm_start", "--warmup-steps", "30"])
    assert grokking.kappa_init_param == 60  # not the 0.8 of Kappa-kI0


def test_one_flag_changes_the_optimizer_of_a_config(tmp_path):
    path = config(tmp_path, "optimizer: adamcpr\nkappa_init_method: warm_start\nkappa_init_param: 90\n")
    settings = gpt2("--config", path, "--optimizer", "adamw")
    assert settings.weight_decay == 0.1
    assert all(getattr(settings, name) is None for name in CPR)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", r"config.yaml: learning_rate is unknown; there are optimizer, lr,"),
        ("resume: true", "resume is for the command line only"),
        ("lr: fast", "lr is 'fast', but must be a number"),
        ("lr: -1", "lr is -1, but must be at least 0"),
        ("lr: .nan", "lr is nan, but must be finite"),
        ("lr: [1]", r"lr is \[1\], but must be one float"),
        ("max_steps: 10.5", "max_steps is 10.5, but must be a whole number"),
        ("max_steps: true", "max_steps is True, but must be one int"),
        ("betas: 0.9", "betas is 0.9, but must be 2 numbers"),
        ("adaptive_bounds: 1", "adaptive_bounds is 1, but must be true or false"),
        ("size: huge", "size is 'huge', but must be one of tiny, s, m, l, xl"),
        ("optimizer: adamw\nkappa_init_method: uniform", "kappa_init_method means nothing for the optimizer adamw"),
        ("- a list", "holds no settings"),
        ("a: [", r"config\.yaml:1: it cannot be read as YAML"),
    ],
)
def test_a_config_without_meaning_is_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        gpt2("--config", config(tmp_path, text))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--max-steps 100 --kappa-init-method warm_start --kappa-init-param 100",
         "warm start of 100 steps .* not over within max_steps = 100"),
        ("--max-steps 100 --warmup-steps 60 --kappa-init-method warm_start", "warm start of 120 steps"),
        ("--kappa-init-method warm_start --kappa-init-param 10.5", "10.5, but a warm start has whole steps"),
        ("--max-steps 40 --warmup-steps 40", "warmup_steps is 40, but the training has only 40 steps"),
        ("--reg-step-size 200", "three samples, reg_step_size = 200 steps apart, but the training has only 400"),
        ("--optimizer adamw --kappa-update 2", "kappa_update means nothing for the optimizer adamw"),
        ("--momentum 0.5", "momentum means nothing for the optimizer adamcpr"),
        ("--lr 1e-3x", "--lr is '1e-3x', but must be a number"),
        ("--batch-size 0", "--batch-size is '0', but must be at least 1"),
        ("--config absent.yaml", "absent.yaml cannot be read"),
        ("--resume", "--resume needs --out"),
        ("--resume --out absent", "absent holds no run to resume"),
    ],
)  # fmt: skip
def test_flags_without_meaning_are_one_line(flags, message):
    with pytest.raises(ValueError, match=message):
        gpt2(*flags.split())


@pytest.fixture
def stored(tmp_path):
    """The folder of a run that was started with lr 5e-4."""
    settings = gpt2("--lr", "5e-4").to_json()
    (tmp_path / "config.json").write_text(json.dumps({"script": "train_gpt2", "settings": settings}))
    return str(tmp_path)


def test_resume_takes_the_settings_of_the_run(stored):
    settings = gpt2("--resume", "--out", stored)
    assert settings.to_json() == gpt2("--lr", "5e-4").to_json()
    assert gpt2("--resume", "--out", stored, "--lr", "5e-4", "--device", "cpu").betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "1e-3"], "lr is 0.0005 in the run in .* but 0.001 is asked for; a resumed run keeps its settings"),
        (["--max-steps", "800"], "max_steps is 400 in the run"),
        (["--optimizer", "adamw"], "optimizer is adamcpr in the run"),
        (["--weight-decay", "0.1"], "weight_decay is None in the run"),
    ],
)
def test_resume_with_other_settings_is_refused(stored, flags, message):
    with pytest.raises(ValueError, match=message):
        gpt2("--resume", "--out", stored, *flags)


def test_resume_with_another_config_or_script_is_refused(stored, tmp_path):
    path = config(tmp_path, "lr: 5e-4\nseed: 2\n")
    with pytest.raises(ValueError, match="seed is 1234 in the run"):
        gpt2("--resume", "--out", stored, "--config", path)
    with pytest.raises(ValueError, match="is of another script or version"):
        parse(GrokkingSettings, "", ["--resume", "--out", stored])


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "7", '{"settings": 7}', "\0"])
def test_resume_with_a_damaged_config(stored, text):
    Path(stored, "config.json").write_text(text)
    with pytest.raises(ValueError, match="cannot be read as the configuration of a run"):
        gpt2("--resume", "--out", stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": "many"}, "max_steps is 'many', but must be a whole number"),
        ({"warmup_steps": None}, "warmup_steps is None, but must be a whole number"),
    ],
)
def test_resume_with_a_config_of_other_types(stored, change, message):
    content = {"settings": gpt2("--lr", "5e-4").to_json() | change}
    Path(stored, "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        gpt2("--resume", "--out", stored)


@pytest.mark.parametrize("number", ["1e400", ".inf", "1" + "0" * 30])
def test_a_number_too_large_for_any_machine(tmp_path, number):
    with pytest.raises(ValueError, match="max_steps is"):
        gpt2("--config", config(tmp_path, f"max_steps: {number}"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("gpt2/*.yaml")), ids=lambda path: path.stem)
def test_every_gpt2_config_is_the_papers_setup(path):
    settings = gpt2("--config", str(path))
    of_adam = (None, None) if settings.optimizer == "amos" else ((0.9, 0.99), 1e-9)
    assert (settings.betas, settings.eps, settings.clip_norm, settings.dropout) == (*of_adam, 1.0, 0.1)
    assert (settings.context, settings.seed, settings.precision) == (1024, 1234, "bf16")
    assert settings.batch_size == 8 * {"s": 32, "m": 24}[settings.size]
    assert settings.warmup_steps == (2500 if "50k" in path.stem else 5000)
    assert path.stem.startswith(settings.size)
    rest = path.stem.split("_")[1:]
    if settings.optimizer in ("adamw", "adadecay", "awd"):
        assert rest[0] == settings.optimizer
        assert rest[1] == "wd" + path.read_text().split("weight_decay: ")[1].split()[0]
    elif settings.optimizer == "amos":
        assert rest == ["amos"]
    elif rest[-1].startswith("ws"):
        assert settings.kappa_init_param == int(rest[-1][2:-1]) * 1000
    elif rest[-1].startswith("mu"):
        assert (settings.kappa_update, settings.kappa_init_param) == (float(rest[-1][2:]), 5000)
    else:
        assert (rest[-1], settings.reg_step_size) == ("ip", 500)


@pytest.mark.parametrize(
    "path", sorted([*CONFIGS.glob("clip/*.yaml"), *CONFIGS.glob("lora/*.yaml")]), ids=lambda path: path.stem
)
def test_every_fine_tuning_config_is_what_it_is_called(path):
    cls, size, warmup = {"clip": (CLIPSettings, "b32", 500), "lora": (LoRASettings, "mistral", 165)}[path.parent.name]
    settings = parse(cls, "", ["--config", str(path)])
    assert (settings.size, settings.warmup_steps) == (size, warmup)
    named, optimizer, rest = path.stem.split("_")
    assert (named, optimizer) == (size, settings.optimizer)
    if rest == "ip":
        assert (settings.kappa_init_method, settings.reg_step_size) == ("inflection_point", warmup // 10)
    elif rest.startswith("ws"):
        assert settings.kappa_init_param == int(rest[2:-1]) * warmup
    else:
        assert rest == "wd" + path.read_text().split("weight_decay: ")[1].split()[0]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("grokking/*.yaml")), ids=lambda path: path.stem)
def test_every_grokking_config_is_the_scripts_default_at_full_length(path):
    settings = parse(GrokkingSettings, "", ["--config", str(path)])
    default = parse(GrokkingSettings, "", ["--optimizer", settings.optimizer, "--max-steps", "32000"])
    assert settings.to_json() == default.to_json()
