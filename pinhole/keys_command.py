"""`pinhole keys`: make, show and list keys; allow and revoke senders.

The public line goes to standard output, so that it can be piped or redirected; all else goes to standard error.
"""

import json
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from shared import allowlist
from shared.errors import PinholeError
from shared.keyfiles import (
    KEY_SUFFIX,
    default_folder,
    find_public,
    find_secret,
    key_files,
    key_path,
    load_secret,
    write_secret,
)
from shared.link.keys import ListedSender, PublicKey, Role, SecretKey

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make, show and list keys; allow and revoke senders."
)

_Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where keys and allow list are; by default pinhole/keys in the user's configuration folder.",
        show_default=False,
    ),
]

_NEXT = {
    Role.SENDER: "give the public line to the station's operator, who runs `pinhole keys allow {name} LINE`; "
    "send with `pinhole send --key {flag} --station-key LINE_OR_FILE`",
    Role.STATION: "give the public line to every sender, for `pinhole send --station-key LINE_OR_FILE`; "
    "receive with `pinhole receive --key {flag}`",
}


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the key here.", show_default=False)],
    role: Annotated[Role, typer.Option(help="Which end the key is for.", show_default=False)],
    folder: _Folder = None,
    replaces: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Key whose place the new one takes: it keeps the identity.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a key; print its public line, which the other end needs."""
    old = None if replaces is None else find_secret(replaces, role, folder)
    path = key_path(name, folder)
    key = SecretKey.generate(role, identity=None if old is None else old.identity, made=int(time.time()))
    write_secret(path, key)
    typer.echo(key.public.text)
    _tell(f"private key: {path} (keep it here; nobody else may read it)")
    _tell(f"fingerprint: {key.public.fingerprint}")
    _tell(f"next: {_NEXT[role].format(name=name, flag=name if folder is None else shlex.quote(str(path)))}")
    if old is not None:
        _tell(f"{replaces} stays valid until it is removed or revoked; both are identity {key.identity:08x}")


@app.command("show")
def show(
    which: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|PUBLIC_LINE", help="A key of this end, or any public line.", show_default=False
        ),
    ],
    folder: _Folder = None,
) -> None:
    """Show the public half of a key and its fingerprint."""
    made: int | None = None
    if _is_public(which, folder):
        public = find_public(which, None)
    else:
        secret = find_secret(which, None, folder)
        public, made = secret.public, secret.made
    typer.echo(f"public       {public.text}")
    typer.echo(f"role         {public.role}")
    typer.echo(f"identity     {public.identity:08x}")
    typer.echo(f"fingerprint  {public.fingerprint}")
    if made is not None:
        typer.echo(f"made         {_when(made)}")


@app.command("allow")
def allow(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the sender.", show_default=False)],
    public: Annotated[
        str, typer.Argument(metavar="PUBLIC_LINE|FILE", help="The sender's public key.", show_default=False)
    ],
    again: Annotated[bool, typer.Option("--again", help="Allow the key although it was revoked.")] = False,
    folder: _Folder = None,
) -> None:
    """Let a sender in; a running station notices within seconds."""
    key = find_public(public, Role.SENDER)
    path = allowlist.allowed_path(folder)
    added = allowlist.allow(path, name, key, again=again)
    _tell(f"{name} ({key.identity:08x}) is allowed{'' if added else ' already'}, in {path}")
    _tell(f"fingerprint: {key.fingerprint}; compare it with what `pinhole keys show` says at the sender")


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The sender.", show_default=False)],
    key: Annotated[
        str | None,
        typer.Option(
            metavar="FINGERPRINT",
            help="Only the key with this fingerprint, or this beginning of it; else all keys of the sender.",
            show_default=False,
        ),
    ] = None,
    folder: _Folder = None,
) -> None:
    """Shut a sender out, or one of its keys; a running station notices within seconds."""
    path = allowlist.allowed_path(folder)
    for sender in allowlist.revoke(path, name, key):
        _tell(f"{name}: revoked {sender.key.fingerprint}")
    left = len(allowlist.read_allow_list(path).named(name))
    _tell(f"{name} has {left} allowed key{'' if left == 1 else 's'} left, in {path}")


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    folder: _Folder = None,
) -> None:
    """List the keys of this end, and the senders that are allowed and revoked."""
    where = default_folder() if folder is None else folder
    rows = [_own_row(path) for path in key_files(where)]
    path = allowlist.allowed_path(where)
    listed = allowlist.read_allow_list(path) if path.exists() else allowlist.AllowList()
    rows += [_listed_row(sender, "allowed") for sender in listed.senders]
    rows += [_listed_row(sender, "revoked") for sender in listed.revoked]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows)
    else:
        typer.echo(f"there are no keys in {where}")


def _is_public(which: str, folder: Path | None) -> bool:
    """Whether it is a public line or a file with one, rather than a name or the file of a private key."""
    if which.strip().startswith("pinhole-"):
        return True
    # A name in the key folder goes before a file of that name that happens to lie here.
    named = (default_folder() if folder is None else folder) / f"{which}{KEY_SUFFIX}"
    return not which.endswith(KEY_SUFFIX) and not named.exists() and Path(which).is_file()


_Row = dict[str, str | None]


def _own_row(path: Path) -> _Row:
    try:
        key = load_secret(path)
    except PinholeError as error:
        # The others are worth seeing all the same.
        return {"name": path.stem, "state": "unusable", "problem": " ".join(str(error).split())}
    return {"name": path.stem, "state": "own", **_facts(key.public), "made": _when(key.made)}


def _listed_row(sender: ListedSender, state: str) -> _Row:
    return {"name": sender.name, "state": state, **_facts(sender.key), "made": None}


def _facts(key: PublicKey) -> _Row:
    return {
        "role": str(key.role),
        "identity": f"{key.identity:08x}",
        "fingerprint": key.fingerprint,
        "public": key.text,
    }


def _print_table(rows: list[_Row]) -> None:
    # Plain text: a fingerprint that a narrow terminal cut short or wrapped could not be compared.
    width = max(4, *(len(row["name"] or "") for row in rows))
    typer.echo(f"{'name':{width}}  {'state':8}  {'role':7}  {'identity':8}  fingerprint")
    for row in rows:
        rest = row.get("problem") or f"{row['role']:7}  {row['identity']}  {row['fingerprint']}"
        typer.echo(f"{row['name']:{width}}  {row['state']:8}  {rest}")


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
