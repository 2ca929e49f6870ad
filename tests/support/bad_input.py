"""Bad input, as tables: what unit tests give to the parser, integration tests send to the gateway."""

from __future__ import annotations

from typing import Any

from gateway.strict_json import MAX_DEPTH

CHAT: dict[str, Any] = {"model": "sim-small", "messages": [{"role": "user", "content": "hi"}]}


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """An object whose value makes it `depth` levels deep."""
    return b'{"a":' + opening * (depth - 1) + closing * (depth - 1) + b"}"


# The numbers are those of the catalogue of bad input in the design: 26 to 34.
BAD_BODIES = {
    "26 empty": b"",
    "26 null": b"null",
    "26 array": b"[]",
    "26 string": b'"x"',
    "26 number": b"1",
    "27 comment": b'{"a": 1 /* no */}',
    "27 single quotes": b"{'a': 1}",
    "27 trailing comma": b'{"a": 1,}',
    "27 undefined": b'{"a": undefined}',
    "27 two documents": b'{"a": 1}{"a": 2}',
    "27 line break in a string": b'{"a": "\n"}',
    "28 NaN": b'{"a": NaN}',
    "28 Infinity": b'{"a": Infinity}',
    "28 -Infinity": b'{"a": -Infinity}',
    "28 1e999": b'{"a": 1e999}',
    "28 -1e999": b'{"a": [-1e999]}',
    "29 5,000 digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "29 5,000 digits below zero": b'{"a": -' + b"9" * 5_000 + b"}",
    "29 2**64": b'{"a": 18446744073709551616}',
    "29 -2**63 - 1": b'{"a": -9223372036854775809}',
    "30 arrays": nested(100_000),
    "30 objects": nested(100_000, b'{"a":', b"}"),
    "30 never closed": b'{"a":' + b"[" * 100_000,
    "30 one too deep": nested(MAX_DEPTH + 1),
    "31 lone surrogate": b'{"a": "\\ud800"}',
    "31 lone surrogate in a key": b'{"\\udfff": 1}',
    "31 surrogates in the wrong order": b'{"a": "\\udc00\\ud800"}',
    "32 NUL": b'{"a": "\\u0000"}',
    "32 NUL in a key": b'{"\\u0000": 1}',
    "32 NUL in depth": b'{"a": [[{"b": ["\\u0000"]}]]}',
    "32 raw NUL": b'{"a": "\x00"}',
    "33 BOM": b'\xef\xbb\xbf{"a": 1}',
    "34 UTF-16": '{"a": 1}'.encode("utf-16"),
    "34 UTF-16, no BOM": '{"a": 1}'.encode("utf-16-le"),
    "34 UTF-32": '{"a": 1}'.encode("utf-32"),
    "34 Latin-1": '{"a": "é"}'.encode("latin-1"),
    "34 overlong": b'{"a": "\xc0\xaf"}',
    "34 surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "duplicated key": b'{"model": "cheap", "model": "dear"}',
    "duplicated key, escaped": b'{"model": "cheap", "mode\\u006c": "dear"}',
    "duplicated key in depth": b'{"messages": [{"role": "user", "role": "system"}]}',
}


# And these: 35 and 41 to 45. What is changed of CHAT, and the field that the answer names.
BAD_PARAMETERS: list[tuple[str, dict[str, Any], str]] = [
    ("35 n as a string", {"n": "3"}, "n"),
    ("35 n as a float", {"n": 1.0}, "n"),
    ("35 n as a boolean", {"n": True}, "n"),
    ("n of nothing", {"n": 0}, "n"),
    ("n over the cap", {"n": 129}, "n"),
    ("41 max_tokens 0", {"max_tokens": 0}, "max_tokens"),
    ("41 max_tokens -1", {"max_tokens": -1}, "max_tokens"),
    ("41 max_tokens 2**31", {"max_tokens": 2**31}, "max_tokens"),
    ("41 max_completion_tokens 0", {"max_completion_tokens": 0}, "max_completion_tokens"),
    ("41 max_completion_tokens 2**31", {"max_completion_tokens": 2**31}, "max_completion_tokens"),
    ("41 max_tokens over the cap", {"max_tokens": 2**20 + 1}, "max_tokens"),
    ("best_of over the cap", {"best_of": 21}, "best_of"),
    ("top_logprobs over the cap", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("logprobs as a number", {"logprobs": 1}, "logprobs"),
    ("a penalty out of bounds", {"presence_penalty": 2.1}, "presence_penalty"),
    ("stop of many", {"stop": ["a"] * 17}, "stop"),
    ("stop of one that is long", {"stop": ["a" * 1025]}, "stop"),
    ("tools of many", {"tools": [{}] * 129}, "tools"),
    ("47 a tool's schema over the cap", {"tools": [{"d": "a" * 2**18}]}, "tools"),
    ("47 a schema over the cap", {"response_format": {"d": "a" * 2**18}}, "response_format"),
    ("42 temperature -1", {"temperature": -1}, "temperature"),
    ("42 temperature 3", {"temperature": 3}, "temperature"),
    ("42 temperature as a string", {"temperature": "1"}, "temperature"),
    ("42 temperature as a boolean", {"temperature": True}, "temperature"),
    ("42 top_p 0", {"top_p": 0}, "top_p"),
    ("42 top_p 2", {"top_p": 2}, "top_p"),
    ("42 logit_bias too large", {"logit_bias": {str(n): 1 for n in range(301)}}, "logit_bias"),
    ("42 logit_bias as a string", {"logit_bias": {"50256": "1"}}, "logit_bias"),
    ("44 stream as a string", {"stream": "true"}, "stream"),
    ("44 stream as a number", {"stream": 1}, "stream"),
    ("44 stream_options without stream", {"stream_options": {}}, "stream_options"),
    ("44 stream_options with stream false", {"stream_options": {}, "stream": False}, "stream_options"),
    ("44 stream_options as an array", {"stream_options": [], "stream": True}, "stream_options"),
    ("45 user of 1 MB", {"user": "a" * 2**20}, "user"),
    ("45 metadata of 1 MB", {"metadata": {"a": "b" * 2**20}}, "metadata"),
    ("45 metadata of many keys", {"metadata": {str(n): "b" for n in range(17)}}, "metadata"),
    ("45 metadata with a long key", {"metadata": {"k" * 2**20: 1}}, "metadata"),
    ("a key of metadata that is a field too", {"metadata": {"model": 1}}, "metadata.model"),
    ("model missing", {"model": None}, "model"),
    ("model empty", {"model": ""}, "model"),
    ("model as a number", {"model": 5}, "model"),
    ("model too long", {"model": "m" * 257}, "model"),
    ("messages missing", {"messages": None}, "messages"),
    ("messages empty", {"messages": []}, "messages"),
    ("messages as an object", {"messages": {"role": "user"}}, "messages"),
    ("a message that is none", {"messages": ["hi"]}, "messages[0]"),
    ("a message without a role", {"messages": [CHAT["messages"][0], {"content": "hi"}]}, "messages[1].role"),
    ("a role that is none", {"messages": [{"role": 1}]}, "messages[0].role"),
    ("too many messages", {"messages": CHAT["messages"] * 4097}, "messages"),
]


def image(url: Any) -> dict[str, Any]:
    """What is changed of CHAT for it to show an image."""
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


PRIVATE_URLS = [
    "file:///etc/passwd", "ftp://example.com/a", "gopher://example.com", "//example.com/a",
    "example.com/a", "", 5, None,
    "http://169.254.169.254/latest/meta-data", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/", "http://127.0.0.1/",
    "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://0/", "http://[::1]/",
    "http://[fe80::1]/", "http://[fc00::1]/", "http://10.0.0.1", "http://192.168.1.1",
    "http://172.16.0.1", "http://100.64.0.1",
    "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://224.0.0.1/",
    "http://localhost/", "http://LOCALHOST./",
    "http://a.localhost/", "http://inference:8081/", "http://inference/", "http://metadata.google.internal/",
    "http://a.default.svc/", "http://a@169.254.169.254/", "http://example.com\\@169.254.169.254/",
    "http://exa mple.com/",
    "http://\u2460\u2461\u2466.0.0.1/", "http://%31%32%37.0.0.1/", "http://example.com:99999/",
    "http:///a", "http://[::1",
    "HTTP://127.0.0.1/", "http://169.254.169.254./",
]  # fmt: skip
PUBLIC_URLS = [
    "https://example.com/a.png",
    "http://93.184.215.14/",
    "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/a",
    "data:image/png;base64,aGk=",
    "https://example.com:8443/a?b=c#d",
    "https://xn--bcher-kva.example/",
]
