"""URIs: which are one place, which lie under another, and what is never shown of them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aoti_serve.errors import SourceRefused
from aoti_serve.weights.sources.source import resolve
from aoti_serve.weights.sources.uri import UriLocation, location_of, scrubbed, shown_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        pytest.param("/models/w?x#y", "/models/w?x#y", id="path"),
        pytest.param("s3://bucket/a/w", "s3://bucket/a/w", id="plain"),
        pytest.param("https://u:secret@host/a@b/w", "https://***@host/a@b/w", id="password"),
        pytest.param("https://secret@host:1/w", "https://***@host:1/w", id="token"),
        pytest.param("https://u:p@ssecret@host/w", "https://***@host/w", id="password-with-an-at"),
        pytest.param("https://u:p/secret@host/w", "https://***@host/w", id="password-with-a-slash"),
        pytest.param("https://u:1/secret@host/w", "https://***@host/w", id="password-with-a-slash-like-a-port"),
        pytest.param("https://host/w?X-Amz-Signature=secret", "https://host/w", id="signature"),
        pytest.param("https://host/w#secret", "https://host/w", id="fragment"),
        pytest.param("https://u:secret@[broken/w", "https://***@[broken/w", id="broken"),
    ],
)
def test_what_is_shown_of_a_uri(uri: str, expected: str) -> None:
    assert shown_uri(uri) == expected


@pytest.mark.parametrize("uri", ["https://u:secret@host/w", "https://host/w?secret", "https://secret@host/w"])
def test_a_foreign_error_gives_nothing_away(uri: str) -> None:
    assert "secret" not in scrubbed(f"could not open {uri}: secret is no password", uri)


ROOTS = ["https://host/models", "s3://bucket/models/", "memory://m", "http://user:pw@host:8000/a%20b", "/folder"]


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        pytest.param("https://host/models/w", "https://host/models/w", id="below"),
        pytest.param("https://host/models", "https://host/models", id="at"),
        pytest.param("HTTPS://HOST:443/models/w", "https://HOST:443/models/w", id="other-spelling"),
        pytest.param("https://host/./x/../models/w", "https://host/models/w", id="dots-that-stay-inside"),
        pytest.param("https://host/m%6Fdels/%77", "https://host/models/w", id="encoded"),
        pytest.param("https://host/models/a%20b?sig=1", "https://host/models/a%20b?sig=1", id="query"),
        pytest.param("https://host/models/%2577", "https://host/models/%2577", id="encoded-twice"),
        pytest.param("s3://bucket/models/a%20b", "s3://bucket/models/a%20b", id="percent-in-a-key"),
        pytest.param("s3://bucket/models/a?b#c", "s3://bucket/models/a?b#c", id="question-in-a-key"),
        pytest.param("memory://m/w", "memory://m/w", id="memory"),
        pytest.param("http://user:other@host:8000/a%20b/w", "http://host:8000/a%20b/w", id="same-user"),
    ],
)
def test_what_lies_under_a_root_is_asked_for_in_plain_words(uri: str, address: str) -> None:
    found = resolve(uri, ROOTS)
    assert isinstance(found, UriLocation)
    assert found.address == address


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("https://host/models2/w", id="neighbour-with-the-same-prefix"),
        pytest.param("https://host/w", id="above"),
        pytest.param("https://host/models/../w", id="dots"),
        pytest.param("https://host/models/%2e%2E/w", id="encoded-dots"),
        pytest.param("https://host/models/%252e%252e/w", id="dots-encoded-twice"),
        pytest.param("https://host/models/..%2fw", id="encoded-slash"),
        pytest.param("https://host/models/..%5cw", id="encoded-backslash"),
        pytest.param("https://host/models\\..\\w", id="backslash"),
        pytest.param("https://host/models/a%00b", id="encoded-zero"),
        pytest.param("https://host/models/..;/w%0a", id="encoded-newline"),
        pytest.param("https://host/models/..;/w", id="dots-with-a-parameter"),
        pytest.param("https://host/models/%2e.%3Bx=1/w", id="encoded-dots-with-a-parameter"),
        pytest.param("https://ho\tst/models/w", id="tab"),
        pytest.param("https://host/models/a b", id="blank"),
        pytest.param("https://h\u00f6st/models/w", id="foreign-letter"),
        pytest.param("http://host/models/w", id="another-scheme"),
        pytest.param("https://host:8443/models/w", id="another-port"),
        pytest.param("https://host:x/models/w", id="no-port"),
        pytest.param("https://host.evil/models/w", id="longer-host"),
        pytest.param("https://evil/models/w", id="another-host"),
        pytest.param("https://host@evil/models/w", id="host-as-user"),
        pytest.param("https://host:443@evil/models/w", id="host-and-port-as-user"),
        pytest.param("https://evil#@host/models/w", id="fragment-before-the-host"),
        pytest.param("https://evil?@host/models/w", id="query-before-the-host"),
        pytest.param("https://user@host/models/w", id="a-user-that-is-not-listed"),
        pytest.param("http://host:8000/a%20b/w", id="no-user"),
        pytest.param("https://[::1/models/w", id="broken"),
        pytest.param("s3://bucket2/models/w", id="another-bucket"),
        pytest.param("s3://bucket/models/../x", id="dots-in-a-key"),
        pytest.param("s3://bucket/models/%2e%2e/x", id="encoded-dots-in-a-key"),
        pytest.param("memory://m2/w", id="another-first-segment"),
        pytest.param("simplecache::https://host/models/w", id="chain"),
        pytest.param("https://host/models/w::file:///etc/passwd", id="chain-behind"),
        pytest.param("filecache::file:///etc/passwd", id="chain-to-a-file"),
        pytest.param("zip://w::https://host/models/a.zip", id="chain-into-an-archive"),
        pytest.param("local:///etc/passwd", id="another-name-of-file"),
        pytest.param("local:///folder/w", id="another-name-of-file-below-a-folder"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("FILE:///etc/passwd", id="file-in-capitals"),
        pytest.param("file://host/models/w", id="file-of-a-host"),
        pytest.param("data:text/plain,x", id="data"),
        pytest.param("://", id="nothing"),
    ],
)
def test_what_does_not_lie_under_a_root_is_refused(uri: str) -> None:
    with pytest.raises(SourceRefused):
        resolve(uri, ROOTS)


def test_a_refusal_says_what_to_list() -> None:
    with pytest.raises(
        SourceRefused, match=r"from 'https://\*\*\*@evil/a/w' are refused: .*list https://\*\*\*@evil/a "
    ):
        resolve("https://u:secret@evil/a/w?sig=secret", ROOTS)
    with pytest.raises(SourceRefused, match="list /elsewhere there"):
        resolve("/elsewhere/w", ROOTS)


@given(tail=st.text(st.sampled_from("./%2eEfF5cC\\a:@?#"), max_size=24))
@example(tail="?/.")
def test_nothing_that_is_written_behind_a_root_leads_out_of_it(tail: str) -> None:
    for root in ("https://host/models", "s3://bucket/models"):
        try:
            found = resolve(f"{root}/{tail}", [root])
        except SourceRefused:
            continue
        assert isinstance(found, UriLocation)
        assert found.segments[0] == "models"
        assert not {".", ".."} & set(found.segments)
        assert f"{found.address.partition('?')[0]}/".startswith(f"{root}/")
        assert location_of(found.address).segments == found.segments
