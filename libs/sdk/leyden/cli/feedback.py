"""``leyden feedback``: say what became of a session, from a shell."""

from typing import Annotated

import typer
from rich.markup import escape

from leyden.cli.console import DEFAULT_DIRECTORY, Directory, Failed, local_stack, no_stack, output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(feedback)


def feedback(
    session: Annotated[str | None, typer.Option(help="The session.")] = None,
    rollout: Annotated[str | None, typer.Option(help="Or its x-leyden-rollout-id.")] = None,
    completion: Annotated[str | None, typer.Option(help="One completion: x-leyden-completion-id.")] = None,
    thumb: Annotated[str | None, typer.Option(help="up or down.")] = None,
    score: Annotated[
        float | None, typer.Option(help="0 to 1, or as LEYDEN_REWARD_FEEDBACK_SCALES has it.")
    ] = None,
    correction: Annotated[str | None, typer.Option(help="What the answer should have been.")] = None,
    comment: Annotated[str | None, typer.Option(help="Anything else.")] = None,
    finish: Annotated[bool, typer.Option("--finish", help="The session is over.")] = False,
    gateway: Annotated[
        str | None, typer.Option(envvar="LEYDEN_GATEWAY_URL", help="Its URL. Default: the stack in --dir.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LEYDEN_API_KEY", help="An API key of the gateway.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Record feedback on production traffic, or the end of a session."""
    from leyden.feedback_client import FeedbackFailed
    from leyden.feedback_client import feedback as give

    if gateway is None:
        if (state := local_stack(directory)) is None:
            raise no_stack(directory, "--gateway URL")
        gateway = state.endpoints.gateway
    if not api_key:
        raise Failed("give an API key of the gateway: --api-key, or LEYDEN_API_KEY")
    try:
        told = give(
            session=session,
            rollout_id=rollout,
            completion_id=completion,
            thumb=thumb,
            score=score,
            correction=correction,
            comment=comment,
            finish=finish,
            url=gateway,
            api_key=api_key,
        )
    except FeedbackFailed as error:
        raise Failed(escape(str(error))) from None
    output.print(f"recorded for rollout {told['rollout_id']}", highlight=False)
