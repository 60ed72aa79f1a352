"""Who may ask, and who may change weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AdminClosed, InvalidConfig, TooManyWrongTokens, Unauthorized
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.wrong_tokens import BURST, EACH_S, WrongTokens
from aoti_serve.token import TokenSet
from tests.unit.gateway.test_wrong_tokens import Clock

HERE, THERE = "192.0.2.1", "192.0.2.2"
ADMIN, ASKER, OTHER = (f"{name}-0123456789abcdef" for name in ("admin", "asker", "other"))


@pytest.fixture
def own() -> TokenSet:
    return TokenSet(b"key", {"s3cret": ""})


@pytest.fixture
def access(own: TokenSet) -> Access:
    return Access(GatewayConfig(), own)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path) -> GatewayConfig:
    return GatewayConfig(
        admin_tokens=written(tmp_path / "admin", f"ops: {ADMIN}\n"),
        inference_tokens=written(tmp_path / "inference", f"app: {ASKER}\n"),
    )


@pytest.fixture
def filed(files: GatewayConfig, clock: Clock) -> Access:
    return Access(files, TokenSet(b"key"), WrongTokens(clock))


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Bearer s3cret", id="plain"),
        pytest.param("bearer s3cret", id="lowercase"),
        pytest.param("Bearer  s3cret ", id="spaces"),
    ],
)
def test_the_token_opens(access: Access, header: str) -> None:
    assert access.check_admin(header, HERE).startswith("token ")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param(None, "no token was sent", id="nothing"),
        pytest.param("", "no token was sent", id="empty"),
        pytest.param("s3cret", "does not begin with `Bearer `", id="no-scheme"),
        pytest.param("Basic s3cret", "does not begin with `Bearer `", id="another-scheme"),
        pytest.param("Bearer", "no token was sent", id="no-token"),
        pytest.param("Bearer   ", "no token was sent", id="blanks"),
        pytest.param("Bearer S3cret", "is wrong", id="another-token"),
        pytest.param("Bearer s3cret2", "is wrong", id="longer"),
        pytest.param("Bearer s3cret,x", "is wrong", id="list"),
        pytest.param("Bearer \xff\u20ac", "is wrong", id="not-ascii"),
    ],
)
def test_anything_else_is_unauthorized(access: Access, header: str | None, reason: str) -> None:
    with pytest.raises(Unauthorized, match=reason) as caught:
        access.check_admin(header, HERE)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("header", [pytest.param(None, id="nothing"), pytest.param("Bearer x", id="a-token")])
def test_without_a_token_of_the_server_nothing_changes_weights(header: str | None) -> None:
    with pytest.raises(AdminClosed):
        Access(GatewayConfig(), TokenSet(b"key")).check_admin(header, HERE)


def test_without_inference_tokens_everybody_may_ask(access: Access) -> None:
    assert not access.asks_for_inference
    for header in (None, "Bearer wrong", "Bearer s3cret"):
        access.check_inference(header, HERE)


def test_an_inference_token_opens_inference_alone_and_an_admins_opens_both(filed: Access) -> None:
    filed.check_inference(f"Bearer {ASKER}", HERE)
    filed.check_inference(f"Bearer {ADMIN}", HERE)
    assert filed.check_admin(f"Bearer {ADMIN}", HERE) == "ops"
    with pytest.raises(Unauthorized, match=r"the weights API needs .*<admin token>"):
        filed.check_admin(f"Bearer {ASKER}", HERE)
    for header in (None, "Bearer x"):
        with pytest.raises(Unauthorized, match=r"this server needs .*<inference token>"):
            filed.check_inference(header, HERE)


def test_files_of_admin_tokens_replace_the_token_of_the_servers_user(files: GatewayConfig, own: TokenSet) -> None:
    access = Access(files, own)
    with pytest.raises(Unauthorized):
        access.check_admin("Bearer s3cret", HERE)


def test_a_file_that_cannot_be_used_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        Access(GatewayConfig(inference_tokens=tmp_path / "none"), TokenSet(b"key"))


async def test_files_are_watched(filed: Access, files: GatewayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aoti_serve.gateway.access.TOKENS_LOOK_S", 0)
    assert files.inference_tokens is not None
    filed.watch()
    written(files.inference_tokens, f"app: {OTHER}\n")
    async with asyncio.timeout(30):
        while is_right(filed, ASKER):
            await asyncio.sleep(0)
    assert is_right(filed, OTHER)
    filed.close()


def is_right(access: Access, token: str) -> bool:
    try:
        access.check_inference(f"Bearer {token}", THERE)
    except (Unauthorized, TooManyWrongTokens):
        return False
    return True


def guess(access: Access) -> None:
    for number in range(BURST):
        with pytest.raises(Unauthorized):
            access.check_inference(f"Bearer guess-{number}", HERE)


def test_who_guesses_waits_and_does_not_hear_of_a_right_guess(filed: Access, clock: Clock) -> None:
    guess(filed)
    for header in ("Bearer wrong", f"Bearer {ASKER}", f"Bearer {ADMIN}"):
        with pytest.raises(TooManyWrongTokens, match="try again in 1 s"):
            filed.check_inference(header, HERE)
        with pytest.raises(TooManyWrongTokens):
            filed.check_admin(header, HERE)
    filed.check_inference(f"Bearer {ASKER}", THERE)
    clock.now += EACH_S
    filed.check_inference(f"Bearer {ASKER}", HERE)


def test_who_has_been_let_in_does_not_notice_a_guesser_at_the_same_address(filed: Access) -> None:
    filed.check_inference(f"Bearer {ASKER}", HERE)
    filed.check_admin(f"Bearer {ADMIN}", HERE)
    guess(filed)
    filed.check_inference(f"Bearer {ASKER}", HERE)
    assert filed.check_admin(f"Bearer {ADMIN}", HERE) == "ops"


def test_no_token_at_all_is_no_guess(filed: Access) -> None:
    for _ in range(3 * BURST):
        with pytest.raises(Unauthorized, match="no token was sent"):
            filed.check_inference(None, HERE)
    filed.check_inference(f"Bearer {ASKER}", HERE)
