"""Settings: where values come from, what is refused, and that what is recorded reads back."""

import re
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

import vae_fast as vf
from vae_fast.config import parse, preset_names, preset_path, read_toml, resumed_directory
from vae_fast.errors import ConfigError, RunError


def toml(folder: Path, **settings: object) -> str:
    path = folder / "settings.toml"
    path.write_text(tomli_w.dumps(settings))
    return str(path)


def test_defaults_are_the_recipe_of_pytorch_examples() -> None:
    c = vf.Config()
    assert (c.hidden, c.latent, c.activation, c.lr, c.batch_size, c.epochs) == ((400,), 20, "relu", 1e-3, 128, 10)
    assert (c.optimizer, c.lr_schedule, c.beta, c.seed, c.amp, c.compile) == ("adam", "constant", 1, 0, False, False)


def test_later_sources_win(tmp_path: Path) -> None:
    file = toml(tmp_path, latent=7, lr=0.5)
    c = parse(["--preset", "digits", "--config", file, "--lr", "0.25"])
    assert (c.hidden, c.latent, c.lr) == ((1024,), 7, 0.25)  # preset, file, flag
    assert parse(["--config", file]).hidden == (400,)
    alone = toml(tmp_path, weight_decay=0.1, lr_warmup=15)  # contradicts the defaults, not what comes with it
    assert parse(["--config", alone, "--optimizer", "adamw", "--epochs", "20"]).weight_decay == 0.1


@pytest.mark.parametrize(
    ("arguments", "width"),
    [([], 1024), (["--epochs", "2"], 1024), (["--data", "digits"], 400), (["--data=mnist"], 400)],
)
def test_the_digits_preset_applies_when_nothing_is_chosen(arguments: list[str], width: int) -> None:
    assert parse(arguments).hidden == (width,)


def test_flags() -> None:
    c = parse(["--data", "mnist", "--hidden", "512", "256", "--amp", "--no-compile", "--clip", "1.5"])
    assert (c.data, c.hidden, c.amp, c.compile, c.clip) == ("mnist", (512, 256), True, False, 1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--amp-dtyp bf16", "--amp-dtype"),
        ("--epochs 0", "epochs: expected at least 1, got 0"),
        ("--epochs ten", "invalid literal for int"),
        ("--lr nan", "lr: expected a finite number above 0, got nan"),
        ("--binarize yes", "none"),
        ("--test-fraction 1", r"test_fraction: expected a number in \[0, 1\)"),
    ],
)
def test_a_mistake_in_a_flag_exits_with_2_and_says_what(
    arguments: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(arguments.split())
    assert exit_.value.code == 2
    captured = capfd.readouterr()
    text = " ".join((captured.out + captured.err).replace("│", " ").split())
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lattent = 3", "unknown key 'lattent'; perhaps 'latent' is meant"),
        ("zzz = 3", "unknown key 'zzz'; the keys are data, "),
        ("latent = true", "latent: expected int, got True"),
        ("latent = 2.5", "latent: expected int, got 2.5"),
        ("hidden = [1, 'a']", r"hidden: expected tuple\[int, ...\], got \(1, 'a'\)"),
        ("amp_dtype = 'fp8'", "amp_dtype: expected .*bf16.*, got 'fp8'"),
        ("lr = -1", "lr: expected a finite number above 0, got -1.0"),
        ("lr = ", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_names_file_and_key(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"{path}: {message}"):
        parse(["--config", str(path)])


def test_a_missing_file_is_this_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no.toml: cannot be read \(No such file or directory\)"):
        parse(["--config", str(tmp_path / "no.toml")])


def test_contradictions() -> None:
    with pytest.raises(ConfigError, match="weight_decay: expected 0 with optimizer 'adam'"):
        parse(["--weight-decay", "0.1"])
    with pytest.raises(ConfigError, match="lr_warmup: expected at most the 10 epochs of the run, got 11"):
        vf.Config(lr_warmup=11)
    with pytest.raises(ConfigError, match="--no-amp: contradicts amp_dtype = 'bf16'"):
        parse(["--no-amp", "--amp-dtype", "bf16"])
    with pytest.raises(ConfigError, match=r"preset: expected one of binarized, digits, .* got 'nope'"):
        parse(["--preset", "nope"])
    with pytest.raises(ConfigError, match="--resume auto: needs --out"):
        parse(["--resume", "auto"])


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_named_as_their_file(name: str) -> None:
    assert vf.Config.from_preset(name, epochs=3).epochs == 3
    assert preset_path(name).read_text().startswith("#")


@given(
    hidden=st.lists(st.integers(1, 4096), max_size=4),
    lr=st.floats(1e-9, 10),
    clip=st.none() | st.floats(1e-3, 100),
    seed=st.integers(0, 2**63 - 1),
    data=st.text(min_size=1, max_size=20),
    amp=st.booleans(),
)
def test_what_is_recorded_reads_back(tmp_path_factory: pytest.TempPathFactory, **settings: object) -> None:
    config = vf.Config(**settings, out="elsewhere", dry_run=True)
    file = toml(tmp_path_factory.mktemp("config"), **config.recorded(), plan={"device": "cpu"}, environment={"x": 1})
    assert vf.Config.from_toml(file).recorded() == config.recorded()
    assert Path(str(config.recorded()["data"])).is_absolute()  # a resume may start elsewhere


def test_resume_reads_the_runs_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("latent = 3\nepochs = 2\n")
    c = parse(["--resume", str(tmp_path), "--epochs", "4"])
    assert (c.latent, c.epochs, c.resume) == (3, 4, str(tmp_path))
    assert resumed_directory("auto", str(tmp_path / "new")) is None
    with pytest.raises(RunError, match=r"--resume: expected a run directory, but .* holds no config.toml"):
        parse(["--resume", str(tmp_path / "new")])
    with pytest.raises(ConfigError, match=r"--resume: takes its settings from the run's config.toml"):
        parse(["--resume", str(tmp_path), "--preset", "digits"])


def test_paths_and_lists_are_accepted_from_python(tmp_path: Path) -> None:
    config = vf.Config(data=tmp_path, hidden=[3, 4], lr=1)
    assert (config.data, config.hidden, config.lr) == (str(tmp_path), (3, 4), 1.0)
    assert read_toml(toml(tmp_path, **config.recorded()))["hidden"] == (3, 4)
