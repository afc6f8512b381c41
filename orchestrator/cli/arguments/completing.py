"""What a shell's Tab offers: names of stacks and containers, read from the records of the instance, and files.

In: what stands on the line so far. Out: items that begin like it. Whatever goes wrong, nothing is offered and nothing said:
an error of ours in the middle of somebody's line helps nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import wraps

import click
from click.shell_completion import CompletionItem

from orchestrator.app import App
from orchestrator.model.ids import Kind, Ref

_Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quiet(offered: Callable[[click.Context, str], Iterable[str]]) -> _Completer:
    @wraps(offered)
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            before = ctx.params.get(param.name or "") or ()
            given = {before} if isinstance(before, str) else set(before)
            found = sorted(set(offered(ctx, incomplete)) - given)
        except Exception:
            return []
        return [CompletionItem(each) for each in found if each.startswith(incomplete)]

    return complete


@_quiet
def stacks(ctx: click.Context, incomplete: str) -> Iterable[str]:
    return _app(ctx).stacks()


@_quiet
def containers(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """The shortest names that mean one container."""
    return _short(_containers(_app(ctx)), incomplete)


@_quiet
def stacks_and_containers(ctx: click.Context, incomplete: str) -> Iterable[str]:
    app = _app(ctx)
    return (*app.stacks(), *_short(_containers(app), incomplete))


@_quiet
def roots(ctx: click.Context, incomplete: str) -> Iterable[str]:
    return (name for each in _app(ctx).roots.entries() for name in each.names)


@_quiet
def volumes(ctx: click.Context, incomplete: str) -> Iterable[str]:
    return (each.ref for each in _app(ctx).volumes_here.all())


@_quiet
def things(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Containers, and everything else by its whole name."""
    app = _app(ctx)
    others = (str(each.ref) for stack in app.stacks() for each in app.observe(stack))
    return (*_short(_containers(app), incomplete), *others)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell's own way to complete paths."""
    return [CompletionItem(incomplete, type="file")]


def places(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Of `cp`: a path of this host, or a container and its colon."""
    inside = [CompletionItem(f"{each.value}:") for each in containers(ctx, param, incomplete)]
    return inside or files(ctx, param, incomplete)


def _app(ctx: click.Context) -> App:
    whole = ctx.find_root()
    opened: Callable[[str | None], App] = whole.obj or App.open
    return opened(whole.params.get("root"))


def _containers(app: App) -> Iterator[tuple[str, Ref]]:
    for stack in app.stacks():
        for each in app.observe_containers(stack):
            if each.ref.kind is Kind.CONTAINER:
                yield stack, each.ref


def _short(existing: Iterable[tuple[str, Ref]], incomplete: str) -> Iterator[str]:
    found = set(existing)
    if incomplete.startswith(f"{Kind.CONTAINER}/"):
        yield from (str(ref) for _, ref in found)
        return
    instances = Counter((stack, ref.name.partition("/")[0]) for stack, ref in found)
    names = {
        (stack, ref): instance if instances[stack, instance] == 1 else ref.name
        for stack, ref in found
        for instance in (ref.name.partition("/")[0],)
    }
    same = Counter(names.values())
    for (stack, _), name in names.items():
        yield f"{stack}:{name}" if same[name] > 1 or ":" in incomplete else name
