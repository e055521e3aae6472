"""Settings: where values come from, which are refused, and that recorded settings read back."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st

import vae_fast as vf
from vae_fast.config import preset_names, preset_path, read_toml, resumed_directory
from vae_fast.errors import ConfigError, RunError


def toml(folder: Path, **settings: object) -> str:
    path = folder / "settings.toml"
    path.write_text(tomli_w.dumps(settings))
    return str(path)


def test_the_page_of_settings_is_up_to_date_with_the_code() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = runpy.run_path(str(docs / "configuration.py"))["page"]
    assert (docs / "configuration.md").read_text(encoding="utf-8") == page(), "run: python docs/configuration.py"


def test_the_defaults_are_the_recipe_of_pytorch_examples() -> None:
    c = vf.Config()
    assert (c.hidden, c.latent, c.activation, c.lr, c.batch_size, c.epochs) == ((400,), 20, "relu", 1e-3, 128, 10)
    assert (c.optimizer, c.lr_schedule, c.beta, c.seed, c.amp, c.compile) == ("adam", "constant", 1, 0, False, False)


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
        read_toml(path)


def test_a_missing_file_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no.toml: cannot be read \(No such file or directory\)"):
        read_toml(tmp_path / "no.toml")


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="weight_decay: expected 0 with optimizer 'adam'"):
        vf.Config(weight_decay=0.1)
    with pytest.raises(ConfigError, match="lr_warmup: expected at most the 10 epochs of the run, got 11"):
        vf.Config(lr_warmup=11)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_named_after_their_files(name: str) -> None:
    assert vf.Config.from_preset(name, epochs=3).epochs == 3
    assert preset_path(name).read_text().startswith("#")


@given(
    hidden=st.lists(st.integers(1, 4096), max_size=4),
    lr=st.floats(1e-9, 10),
    clip=st.none() | st.floats(1e-3, 100),
    seed=st.integers(0, 2**63 - 1),
    data=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    amp=st.booleans(),
)
def test_recorded_settings_read_back(tmp_path_factory: pytest.TempPathFactory, **settings: object) -> None:
    config = vf.Config(**settings, out="elsewhere", dry_run=True)
    file = toml(tmp_path_factory.mktemp("config"), **config.recorded(), plan={"device": "cpu"}, environment={"x": 1})
    assert vf.Config.from_toml(file).recorded() == config.recorded()
    assert Path(str(config.recorded()["data"])).is_absolute()  # a resume may start elsewhere


def test_the_directory_to_resume_is_found_or_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("latent = 3\n")
    assert resumed_directory(str(tmp_path), None) == resumed_directory("auto", str(tmp_path)) == tmp_path
    assert resumed_directory("auto", str(tmp_path / "new")) is None
    with pytest.raises(RunError, match=r"--resume: expected a run directory, got .*new: there is no such directory"):
        resumed_directory(str(tmp_path / "new"), None)
    with pytest.raises(ConfigError, match="--resume auto: needs --out"):
        resumed_directory("auto", None)


def test_paths_and_lists_are_accepted_from_python(tmp_path: Path) -> None:
    config = vf.Config(
        data=tmp_path, hidden=[3, np.int64(4)], latent=np.int64(3), lr=np.float32(0.5), seed=torch.tensor(7)
    )
    assert (config.data, config.hidden, config.latent) == (str(tmp_path), (3, 4), 3)
    assert (config.lr, config.seed) == (0.5, 7)
    assert {type(value) for value in (*config.hidden, config.latent, config.seed)} == {int}
    assert read_toml(toml(tmp_path, **config.recorded()))["hidden"] == (3, 4)


@pytest.mark.parametrize("way", ["python", "toml", "toml with a byte order mark"])
def test_paths_are_expanded_wherever_they_come_from(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = {"data": "~/x.npy", "data_root": "~/root", "out": "~/run", "resume": "~/before"}
    if way == "python":
        config = vf.Config(**given)
    else:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "c.toml").write_text(
            tomli_w.dumps(given), encoding="utf-8" if way == "toml" else "utf-8-sig"
        )
        config = vf.Config.from_toml("~/c.toml")
    assert {name: getattr(config, name) for name in given} == {
        name: str(tmp_path / "home" / path[2:]) for name, path in given.items()
    }
    assert config.recorded()["data"] == str(tmp_path / "home" / "x.npy")


@pytest.mark.parametrize("name", ["data", "data_root", "labels", "out", "resume"])
@pytest.mark.parametrize("path", ["", "a\0b", "caf\udce9.npy"])
def test_impossible_paths_are_refused(name: str, path: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected a path.*, got {re.escape(repr(path))}") as refused:
        vf.Config(**{name: path})
    str(refused.value).encode()  # can be printed


def test_images_given_instead_of_a_path_get_advice() -> None:
    for images in (np.zeros((60, 28, 28), np.uint8), torch.zeros(60, 28, 28, dtype=torch.uint8)):
        with pytest.raises(
            ConfigError, match=r"data: expected str, got .*\[60, 28, 28\] of .*uint8; .*fit.config, images=images"
        ):
            vf.Config(data=images)
        with pytest.raises(
            ConfigError, match=r"fit: expected a Config, got .*\[60, 28, 28\] of .*fit.config, images=images"
        ):
            vf.fit(images)
