"""Options of the command line, made from the settings of `config_sections`: a setting is defined there alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fthnet_kit.edge.deployment.config_sections import Key, known_keys
from fthnet_kit.edge.errors import InputError, OptionError

Function = TypeVar("Function", bound=Callable[..., Any])
Option = Callable[[Function], Function]


def setting(name: str, **changes: Any) -> Option[Any]:
    """The option of one setting, with its bounds, default and explanation.

    Args:
        name: `section.key`.
        changes: to the arguments of `click.option`.
    """
    key = known_keys()[name]
    parameter = key.metadata["option"]
    flag = key.metadata["flag"] or f"--{parameter.replace('_', '-')}"
    attributes: dict[str, Any] = {
        "metavar": key.metadata["metavar"],
        "help": key.explained("Default"),
        "callback": _value_of(key),
    }
    if key.kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", parameter, **{**attributes, "default": key.default, **changes})
    attributes["type"] = _type(key)
    if key.default is not None:
        attributes |= {"default": str(key.default) if key.choices else key.default, "show_default": True}
    return click.option(flag, parameter, **{**attributes, **changes})


def setting_options(*sections: str, **changes: dict[str, Any]) -> Option[Any]:
    """The options of all settings of these sections that have one, in their order.

    Args:
        sections: of the configuration.
        changes: by parameter, to the arguments of `click.option`.
    """

    def decorate(function: Function) -> Function:
        for name, key in reversed(known_keys().items()):
            if key.section in sections and key.metadata["option"] is not None:
                function = setting(name, **changes.get(key.metadata["option"], {}))(function)
        return function

    return decorate


def _type(key: Key) -> click.ParamType[Any]:
    """What click takes for a value."""
    if key.choices:
        return click.Choice([str(choice) for choice in key.choices])
    if key.kind is Path:
        return click.Path(path_type=Path)
    if key.kind is str:
        return click.STRING
    least, most, above = (key.metadata[name] for name in ("least", "most", "above"))
    low = least if above is None else above
    kind = click.IntRange if key.kind is int else click.FloatRange
    return kind(low, most, min_open=above is not None)


def _value_of(key: Key) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Gives a choice the type that it has in the configuration, and checks a text as the file's reader does."""

    def value_of(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        if key.choices:
            return next(choice for choice in key.choices if str(choice) == value)
        if key.metadata["check"] is not None:
            try:
                key.metadata["check"](value)
            except (InputError, ValueError) as error:
                raise OptionError(str(error)) from error
        return value

    return value_of
