"""``leyden models``: policies, versions and aliases in the registry."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from leyden.cli.console import DEFAULT_DIRECTORY, Directory, Failed, local_stack, no_stack, output
from leyden.registry import RegistryClient, RegistryFailed
from leyden.uploading import upload

app = typer.Typer(help="Policies, their versions and aliases.", no_args_is_help=True)
Registry = Annotated[
    str | None,
    typer.Option("--registry", envvar="LEYDEN_REGISTRY_URL", help="Its URL. Default: the stack in --dir."),
]


def _client(registry: str | None, directory: Path) -> RegistryClient:
    if registry:
        return RegistryClient(registry)
    if state := local_stack(directory):
        return RegistryClient(state.endpoints.registry)
    raise no_stack(directory, "--registry URL")


@app.command("import")
def import_(
    policy: Annotated[str, typer.Argument(help="Name of the policy; created when new.")],
    folder: Annotated[Path, typer.Argument(help="Hugging Face folder: config, tokenizer, safetensors.")],
    alias: Annotated[list[str] | None, typer.Option(help="Aliases to point at it. Repeatable.")] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Upload it first, below this place: s3://bucket/prefix, gs://… or az://…"),
    ] = None,
    registry: Registry = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Register a model folder as a version of a policy. The same folder twice is one version.

    Without --to, the registry and the inference servers must see the folder under the same path.
    """
    aliases = alias if alias is not None else ["base", "latest", "serving"]
    client = _client(registry, directory)
    try:
        if to is None:
            version = client.import_version(policy, folder, aliases=aliases)
        else:
            url, digest = upload(policy, folder, to)
            version = client.import_stored(policy, url, digest, aliases=aliases)
    except RegistryFailed as error:
        raise Failed(escape(str(error))) from None
    output.print(f"{policy}@{version['version']}  {version['digest']}", highlight=False)


@app.command()
def pin(
    version: Annotated[str, typer.Argument(help="POLICY@VERSION")],
    holder: Annotated[
        str, typer.Option("--as", help="Who needs it; pins are told apart by this.")
    ] = "operator",
    reason: Annotated[str, typer.Option(help="Kept in the audit trail.")] = "",
    registry: Registry = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Keep the weights of a version, whatever the retention settings say."""
    policy, number = _policy_version(version)
    try:
        found = _client(registry, directory).pin(policy, number, holder=holder, reason=reason)
    except RegistryFailed as error:
        raise Failed(escape(str(error))) from None
    output.print(f"{version} is pinned by {', '.join(found['pins'])}", highlight=False)


@app.command()
def unpin(
    version: Annotated[str, typer.Argument(help="POLICY@VERSION")],
    holder: Annotated[str, typer.Option("--as", help="Whose pin to take away.")] = "operator",
    reason: Annotated[str, typer.Option(help="Kept in the audit trail.")] = "",
    registry: Registry = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Take a pin away; retention decides again."""
    policy, number = _policy_version(version)
    try:
        found = _client(registry, directory).unpin(policy, number, holder=holder, reason=reason)
    except RegistryFailed as error:
        raise Failed(escape(str(error))) from None
    output.print(f"{version} is pinned by {', '.join(found['pins']) or 'nobody'}", highlight=False)


def _policy_version(text: str) -> tuple[str, int]:
    policy, _, number = text.rpartition("@")
    if not policy or not number.isdecimal():
        raise Failed(f"{escape(text)} names no version; write POLICY@VERSION, as calculator@12")
    return policy, int(number)


@app.command("list")
def show(
    policy: Annotated[str, typer.Argument(help="The policy.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="All that the registry knows of each, for scripts.")
    ] = False,
    registry: Registry = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Show the versions of a policy."""
    try:
        versions = _client(registry, directory).versions(policy)["versions"]
    except RegistryFailed as error:
        raise Failed(escape(str(error))) from None
    if as_json:
        typer.echo(json.dumps(versions))
        return
    table = Table()
    for column in ("version", "aliases", "step", "reward", "artifact"):
        table.add_column(column)
    for version in versions:
        reward = (version.get("metrics") or {}).get("reward_mean")
        table.add_row(
            f"{policy}@{version['version']}",
            ", ".join(version.get("aliases", [])),
            "" if version.get("step") is None else str(version["step"]),
            "" if reward is None else f"{reward:.3f}",
            version["artifact"],
        )
    output.print(table)


@app.command()
def promote(
    policy: Annotated[str, typer.Argument(help="The policy.")],
    version: Annotated[int, typer.Argument(min=0, help="The version to serve.")],
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "serving",
    reason: Annotated[str, typer.Option(help="Kept in the audit trail.")] = "",
    weight: Annotated[
        float | None,
        typer.Option(help="Share of the policy's traffic, 0 to 1, that the alias takes as a canary."),
    ] = None,
    registry: Registry = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Move an alias to a version, forwards or back. Without --weight it takes no share of the traffic."""
    try:
        _client(registry, directory).move_alias(policy, alias, version, reason=reason, weight=weight)
    except RegistryFailed as error:
        raise Failed(escape(str(error))) from None
    share = "" if weight is None else f", {weight:.1%} of the traffic"
    output.print(f"{policy}#{alias} -> {policy}@{version}{share}", highlight=False)
