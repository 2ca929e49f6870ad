from __future__ import annotations

from typing import Any

import pytest

from common.errors import InvalidRequest
from gateway.media_urls import check_media_urls
from support.bad_input import PRIVATE_URLS, PUBLIC_URLS, image


@pytest.mark.parametrize("url", PRIVATE_URLS)
def test_an_address_that_is_not_public_is_refused_by_its_place_and_not_repeated(url: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_media_urls(image(url)["messages"])
    assert refused.value.param == "messages[0].content[0].image_url"
    assert not url or str(url) not in refused.value.message


@pytest.mark.parametrize("url", PUBLIC_URLS)
def test_a_public_address_passes(url: str) -> None:
    check_media_urls(image(url)["messages"])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "http://127.0.0.1"},
        {"type": "video_url", "video_url": {"url": "http://127.0.0.1"}},
        {"type": "audio_url", "audio_url": {"url": "http://127.0.0.1"}},
    ],
)
def test_every_field_that_an_engine_fetches_is_looked_at(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        check_media_urls([{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}])


@pytest.mark.parametrize("content", ["hi http://127.0.0.1", None, [], ["hi"], [{"type": "text", "text": "file:"}]])
def test_content_without_an_address_passes(content: Any) -> None:
    check_media_urls([{"role": "user", "content": content}, {"role": "user"}])
