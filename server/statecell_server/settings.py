"""Settings: flags, before the environment, before one TOML file, before the defaults; and where each value came from."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from statecell_server.config import OPTIONS, Config, ConfigError, without_secrets
from statecell_server.options import Option, closest, shown, toml

PREFIX = "STATECELL_"
CONFIG = "STATECELL_CONFIG"
MOST_FILE = 1 << 20
"""Bytes of a settings file."""
BY_KEY: Mapping[str, tuple[str, Option]] = {(o.key or o.name): (name, o) for name, o in OPTIONS.items()}
"""(field, option) by what a file calls it."""
STARTS: Mapping[str, Any] = {
    f.name: f.default if OPTIONS[f.name].start is ... else OPTIONS[f.name].start for f in fields_of(Config) if f.name in OPTIONS
}
"""What the command begins with, by field."""


@dataclass
class Settings:
    """`read(flags, environ).config()`: values by model ("" for all) and field, each with what said it."""

    values: dict[tuple[str, str], tuple[Any, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What to warn of once there is a log."""

    def config(self) -> Config:
        """Raises ConfigError."""
        own: dict[str, dict[str, Any]] = {}
        for (model, name), (value, _) in self.values.items():
            own.setdefault(model, {})[name] = value
        everywhere = own.pop("", {})
        return Config(**everywhere, for_models=own)

    def say(self, one: tuple[str, Option], said: object, label: str, source: str, model: str = "") -> None:
        """`label`: of the option where it was said. Raises ConfigError."""
        name, option = one
        try:
            self.values[model, name] = option.kind.read(said), source
        except ValueError as error:
            came = shown(said if option.secret is None or not isinstance(said, str) else without_secrets(said))
            raise ConfigError(f"{label} is {came}, expected {error}") from None

    def say_text(self, one: tuple[str, Option], said: str, label: str, source: str) -> None:
        """Of a flag or a variable: where models may have their own, also NAME=VALUE. Raises ConfigError."""
        model, equals, rest = said.partition("=")
        if equals and one[1].per_model:
            if not model:
                raise ConfigError(f"{label} is {shown(said)}, expected NAME=VALUE for one model, such as tagger={rest}")
            self.say(one, rest, f"{label} {model}", source, model)
        else:
            self.say(one, said, label, source)

    def summary(self) -> str:
        """What is not the default, in one line. No secrets."""
        said = [key for key, (value, source) in self.values.items() if source != "default" and value is not None]
        lines = [self._line(model, name, OPTIONS[name]).rpartition("  # ")[0] for model, name in said]
        models = [f"models.{model}." if model else "" for model, _ in said]
        return ", ".join(map("".join, zip(models, lines, strict=True))) or "all settings are defaults"

    def shown(self) -> str:
        """As a settings file, with what said each value. No secrets."""
        lines = [f"# statecell-server {version_of('statecell-server')}", ""]
        lines += [self._line("", name, option) for name, option in OPTIONS.items()]
        for model in sorted({model for model, _ in self.values} - {""}):
            lines += ["", f"[models.{toml(model)}]"]
            lines += [self._line(model, name, o) for name, o in OPTIONS.items() if (model, name) in self.values]
        return "\n".join(lines)

    def _line(self, model: str, name: str, option: Option) -> str:
        value, source = self.values.get((model, name), (None, "default"))
        key = option.key or option.name
        if value is None:
            return f"# {key} is not set  # {source}"
        if option.secret is not None and (less := option.secret(value)) != value:
            return f"{key} = {toml(less)}  # {source}; without what is secret in it"
        return f"{key} = {toml(option.kind.show(value))}  # {source}"


def read(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """`flags`: by field, what was given on the command line; `config`: the file. Raises ConfigError."""
    settings = Settings({("", name): (start, "default") for name, start in STARTS.items()})
    file = flags.get("config") or (Path(environ[CONFIG]) if environ.get(CONFIG) else None)
    if file is not None:
        _read_file(settings, file)
    _read_environment(settings, environ)
    for one in OPTIONS.items():
        given = flags.get(one[0])
        for said in given if isinstance(given, list) else [] if given is None else [given]:
            if isinstance(said, bool):
                settings.say(one, said, one[1].flag, "flag")
            else:
                settings.say_text(one, said, one[1].flag, "flag")
    return settings


def _read_environment(settings: Settings, environ: Mapping[str, str]) -> None:
    known = {one[1].environment: one for one in OPTIONS.items()}
    for variable, said in environ.items():
        if not variable.startswith(PREFIX) or not said or variable == CONFIG:
            continue
        one = known.get(variable)
        if one is None:
            if near := closest(variable, [*known, CONFIG]):
                settings.notes.append(f"the environment's {variable} is no setting{near}")
        elif said.startswith(("tcp://", "udp://")):
            # Kubernetes has such a variable for each Service: one of the name "statecell" makes it STATECELL_PORT.
            settings.notes.append(
                f"the environment's {variable} is {shown(said)}, a Kubernetes Service's address: it is left out"
            )
        else:
            for text in said.split(",") if one[1].per_model else [said]:
                settings.say_text(one, text.strip(), variable, "environment")


def _read_file(settings: Settings, path: Path) -> None:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_FILE + 1)
        if len(raw) > MOST_FILE:
            raise ConfigError(f"--config {path} is larger than {MOST_FILE >> 20} MiB; expected a TOML file of settings")
        found = tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}; expected a TOML file of settings") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path} is no TOML: {error}") from error
    models = found.pop("models", {})
    if not isinstance(models, dict):
        raise ConfigError(
            f"{path}: models is {shown(models)}, expected [models.NAME] for a model's settings; the folder is model_repository"
        )
    for key, said in found.items():
        if key not in BY_KEY:
            raise ConfigError(f"{path}: {key[:100]} is no setting{closest(key, BY_KEY)}; --print-config shows all there are")
        settings.say(BY_KEY[key], said, f"{path}: {key}", "file")
    own = {key: one for key, one in BY_KEY.items() if one[1].per_model}
    for model, section in models.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: models.{model} is {shown(section)}, expected a section [models.{model}]")
        for key, said in section.items():
            if key not in own:
                what = "is for all models: put it above the sections" if key in BY_KEY else f"is no setting{closest(key, own)}"
                raise ConfigError(f"{path}: models.{model}.{key[:100]} {what}; a model may have {', '.join(sorted(own))}")
            settings.say(own[key], said, f"{path}: models.{model}.{key}", "file", model)
