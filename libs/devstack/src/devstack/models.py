"""The catalogue of a stack whose upstream is the simulator, so that prices, fallback and batching can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "INFERENCE_MODELS_FILE"
_DEFAULT_MODELS = "sim-small,sim-large,sim-embed"
_PRICED = "{{input_usd: {}, output_usd: {}, as_of: 2026-11-01}}"
_PRICES = {
    "sim-small": _PRICED.format(0.5, 1.5),
    "sim-large": _PRICED.format(5, 15),
    "sim-embed": _PRICED.format(0.1, 0),
}
_ANY_PRICE = _PRICED.format(1, 2)
_ABOUT = """\
# Written by ./justw up at each start; ALL PRICES ARE INVENTED. A change is taken up while the stack runs.
# To keep a catalogue of your own, export {variable}. Examples: docs/models
version: 1
models:
"""
_FURTHER = {
    "sim-small": ("sim-large", "    larger: sim-large\n"),
    "sim-large": ("sim-small", "    fallback: [sim-small]\n"),
}
"""Of a model, if the other is there too."""


_KEY = "SIMULATOR_API_KEY"


def render(environ: Mapping[str, str], simulator_url: str) -> str:
    """The file's text for the models that the simulator of this environment has."""
    names = [name for one in (environ.get("SIMULATOR_MODELS") or _DEFAULT_MODELS).split(",") if (name := one.strip())]
    return _ABOUT.format(variable=VARIABLE) + "".join(
        _model(name, names, simulator_url, has_key=bool(environ.get(_KEY))) for name in names
    )


def _model(name: str, names: list[str], simulator_url: str, *, has_key: bool) -> str:
    key = f"        api_key: {_KEY}\n" if has_key else ""
    needed, further = _FURTHER.get(name, ("", ""))
    caps = "        caps: {max_output_tokens: 100000}\n" if name == "sim-large" else ""
    batching = "        batching: {max_items: 32, max_wait_ms: 5}\n" if name == "sim-embed" else ""
    return (
        f"  {name}:\n    targets:\n      - name: {name}\n        base_url: {simulator_url}/v1\n"
        f"{key}{caps}        price: {_PRICES.get(name, _ANY_PRICE)}\n{batching}{further if needed in names else ''}"
    )
