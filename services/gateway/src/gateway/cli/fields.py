"""Arguments that say what a key or a tenant may do, and what was said with them."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from gateway.cli.admin_api import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

_DAY_S = 86_400
_LIMITS: dict[str, tuple[str, type]] = {
    "rpm": ("requests_per_minute", int),
    "tpm": ("tokens_per_minute", int),
    "concurrency": ("max_concurrency", int),
    "usd-per-day": ("budget_usd_per_day", float),
    "usd-per-month": ("budget_usd_per_month", float),
}
_OF_KEYS = ("models", "cache", "priority", "trusted_trace", "capture_content")


def add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits", "What is not named stays as it is; 'none' takes a limit away.")
    for name, (field, kind) in _LIMITS.items():
        limits.add_argument(
            f"--{name}", metavar="N", dest=field, type=_or("none", kind), help=field.replace("_", " "),
            default=argparse.SUPPRESS,
        )  # fmt: skip
    limits.add_argument(
        "--mode", choices=("enforce", "shadow"), default=argparse.SUPPRESS, help="shadow: report and refuse nothing"
    )
    limits.add_argument("--for-model", metavar="MODEL", help="the limits named here are of this model alone")


def add_key_fields(parser: argparse.ArgumentParser) -> None:
    add_limits(parser)
    parser.add_argument(
        "--models", type=_or("all", lambda names: names.split(",")), default=argparse.SUPPRESS,
        help="public names, separated by commas; 'all' is every model",
    )  # fmt: skip
    parser.add_argument("--cache", choices=("all", "deterministic", "off"), default=argparse.SUPPRESS)
    parser.add_argument("--priority", choices=("interactive", "batch"), default=argparse.SUPPRESS)
    for flag, about in (("trusted-trace", "go on with a caller's trace"), ("capture-content", "messages in traces")):
        parser.add_argument(f"--{flag}", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=about)
    parser.add_argument(
        "--expires-in-days", metavar="N", type=_or("never", float), default=argparse.SUPPRESS, help="or 'never'"
    )


def said(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that were named on the command line, as the admin API has them. Raises `CommandError`."""
    named = vars(options)
    limits = {field: named[field] for field in (*(field for field, _ in _LIMITS.values()), "mode") if field in named}
    if options.for_model is not None and not limits:
        raise CommandError("--for-model needs a limit beside it")
    fields: dict[str, Any] = {name: named[name] for name in _OF_KEYS if name in named}
    if limits:
        fields |= {"limits": limits} if options.for_model is None else {"model_limits": {options.for_model: limits}}
    if "expires_in_days" in named:
        days = options.expires_in_days
        fields["expires_at"] = None if days is None else round(time.time() + days * _DAY_S)
    return fields


def _or(nothing: str, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return None if text == nothing else kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is neither {what} nor {nothing!r}") from None

    return read
