"""How flags, files and presets become a Config."""

import re
from pathlib import Path

import pytest
import tomli_w

from vae_fast.cli.flags import parse
from vae_fast.errors import ConfigError, RunError


def toml(folder: Path, **settings: object) -> str:
    path = folder / "settings.toml"
    path.write_text(tomli_w.dumps(settings))
    return str(path)


def test_later_sources_win(tmp_path: Path) -> None:
    file = toml(tmp_path, latent=7, lr=0.5)
    c = parse(["--preset", "digits", "--config", file, "--lr", "0.25"])
    assert (c.hidden, c.latent, c.lr) == ((1024,), 7, 0.25)  # preset, file, flag
    assert parse(["--config", file]).hidden == (400,)
    alone = toml(tmp_path, weight_decay=0.1, lr_warmup=15)  # contradicts the defaults, but not the flags given with it
    assert parse(["--config", alone, "--optimizer", "adamw", "--epochs", "20"]).weight_decay == 0.1


@pytest.mark.parametrize(
    ("arguments", "width"),
    [([], 1024), (["--epochs", "2"], 1024), (["--data", "digits"], 400), (["--data=mnist"], 400)],
)
def test_the_digits_preset_applies_when_nothing_is_chosen(arguments: list[str], width: int) -> None:
    assert parse(arguments).hidden == (width,)


def test_flags_set_the_settings() -> None:
    c = parse(["--data", "mnist", "--hidden", "512", "256", "--amp", "--no-compile", "--clip", "1.5"])
    assert (c.data, c.hidden, c.amp, c.compile, c.clip) == ("mnist", (512, 256), True, False, 1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--amp-dtyp bf16", "--amp-dtype"),
        ("--epochs ten", "invalid literal for int"),
        ("--binarize yes", "none"),
    ],
)
def test_a_mistake_in_a_flag_exits_with_2_and_is_explained(
    arguments: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(arguments.split())
    assert exit_.value.code == 2
    captured = capfd.readouterr()
    text = " ".join((captured.out + captured.err).replace("│", " ").split())
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 0", "epochs: expected at least 1, got 0"),
        ("--lr nan", "lr: expected a finite number above 0, got nan"),
        ("--test-fraction 1", r"test_fraction: expected a number in \[0, 1\)"),
        ("--amp bf16", r"--amp: a switch, which takes no value \(.*\), got 'bf16'; the dtype is --amp-dtype"),
        ("--compile=yes", r"--compile: a switch, .*--no-compile turns it off.*, got 'yes'"),
        ("--amp-dtype fp32", "--amp-dtype: expected auto, bf16 or fp16, got 'fp32'; float32 is what a run without"),
        ("--out=caf\udce9", "out: expected a path in UTF-8, got 'caf.udce9'"),
    ],
)
def test_an_invalid_value_is_reported_with_its_setting(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        parse(arguments.split())


def test_contradictory_settings_are_rejected() -> None:
    with pytest.raises(ConfigError, match="weight_decay: expected 0 with optimizer 'adam'"):
        parse(["--weight-decay", "0.1"])
    with pytest.raises(ConfigError, match="--no-amp: contradicts amp_dtype = 'bf16'"):
        parse(["--no-amp", "--amp-dtype", "bf16"])
    with pytest.raises(ConfigError, match=r"preset: expected one of binarized, colour, .* got 'nope'"):
        parse(["--preset", "nope"])
    with pytest.raises(ConfigError, match="--resume auto: needs --out"):
        parse(["--resume", "auto"])


def test_resume_reads_the_runs_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("latent = 3\nepochs = 2\n")
    c = parse(["--resume", str(tmp_path), "--epochs", "4"])
    assert (c.latent, c.epochs, c.resume) == (3, 4, str(tmp_path))
    with pytest.raises(RunError, match=r"--resume: expected a run directory, got .*: there is no such dir"):
        parse(["--resume", str(tmp_path / "new")])
    with pytest.raises(ConfigError, match=r"--resume: takes its settings from the run's config.toml"):
        parse(["--resume", str(tmp_path), "--preset", "digits"])
