"""Models on the Hugging Face hub: weights as safetensors, config.json and the card; nothing in them is executed."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stochseg.card import FOLDER, new_card
from stochseg.errors import InputError, RunError

if TYPE_CHECKING:
    from stochseg.models.segmenter import Segmenter

NEEDED = ["config.json", "model.safetensors"]
FILES = [*NEEDED, "calibration.json", "README.md"]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(path: Path) -> bool:
    """Whether this may be OWNER/NAME of a hub: two plain words, of which the first is no folder here."""
    return _NAME.fullmatch(str(path)) is not None and not path.parent.exists()


def push(model: "Segmenter", repo: str, private: bool, revision: str | None, message: str, token: str | None) -> str:
    """Upload a model to OWNER/NAME, which is made where it is not there; returns the address of the commit."""
    if _NAME.fullmatch(repo) is None:
        raise InputError(f"{repo}: a model on the hub is named OWNER/NAME")
    with _explained(repo, "uploaded"), tempfile.TemporaryDirectory(prefix="stochseg-hub-") as folder:
        api = _library().HfApi(token=token)
        model.save(folder, (model.card or new_card(model)).replace(f'load("{FOLDER}"', f'load("{repo}"'))
        api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message)
    return str(done.commit_url)


def fetch(repo: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model of the hub, downloaded into the hub library's cache; InputError where there is none."""
    with _explained(repo, "downloaded"):
        folder = Path(_library().snapshot_download(repo, revision=revision, token=token, allow_patterns=FILES))
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{repo}: the hub has it, but it is no stochseg model (no {', no '.join(missing)})")
    return folder


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("models on the hub need huggingface_hub: pip install 'stochseg[hub]'") from error
    return huggingface_hub


@contextmanager
def _explained(repo: str, done: str) -> Iterator[None]:
    """What can go wrong between here and a hub, as one line each."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # the library's own errors, and those of whichever HTTP client it is built on
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "HFValidationError"}:
            raise InputError(
                f"{repo}: no such model or revision here or on the hub, or it is private; look at its name, or log in with "
                "`hf auth login`"
            ) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RunError(f"{repo}: cannot be {done} ({reason}); look at the connection and the token") from error
