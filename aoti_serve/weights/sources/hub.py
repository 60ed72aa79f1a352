"""Repositories of Hugging Face's hub, `hf://org/repo@revision/path`, at the commit that a revision names now."""

from __future__ import annotations

from typing import NamedTuple

from aoti_serve.errors import UnreadableWeights


class PinnedPlace(NamedTuple):
    """A place in a repository at one commit, and what to call it."""

    uri: str
    name: str


def pinned(uri: str) -> PinnedPlace:
    """The same place at the commit that its revision, a branch for example, names now: its files never change."""
    try:
        from huggingface_hub import HfApi, HfFileSystem
        from huggingface_hub.hf_file_system import HfFileSystemResolvedRepositoryPath
    except ImportError:
        detail = f"{uri}: hf:// needs a package that is not installed: pip install 'aoti-serve[huggingface]'"
        raise UnreadableWeights(detail=detail) from None
    files = HfFileSystem()
    files.invalidate_cache()
    found = files.resolve_path(uri)
    if not isinstance(found, HfFileSystemResolvedRepositoryPath):
        raise UnreadableWeights(detail=f"{uri}: name a repository, hf://org/repo@revision; a bucket has no revisions")
    commit = HfApi().repo_info(found.repo_id, repo_type=found.repo_type, revision=found.revision).sha
    kind = "" if found.repo_type == "model" else f"{found.repo_type}s/"
    where = f"hf://{kind}{found.repo_id}@{commit}/{found.path_in_repo}".rstrip("/")
    return PinnedPlace(where, f"{found.repo_id.rpartition('/')[2]}@{str(commit)[:8]}")
