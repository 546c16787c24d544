"""Mixed precision and backward on fake tensors of a GPU, on a machine that may have none.

A fake tensor has a device, a shape and a layout, but no memory. On fake tensors of a GPU a model
takes the GPU's paths: PyTorch's dispatch, CUDA's autocast and our own choices by device. Without a
GPU, forward works, and two things do not: ``torch.autocast("cuda")`` turns itself off, and the
autograd engine asks the driver for the GPU's streams.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.autograd.graph import Node

__all__ = ["SUPPORTED", "cuda_autocast_available", "fake_backward"]

# PyTorch before 2.4 does not say what the inputs of a node are
SUPPORTED = hasattr(Node, "_input_metadata")


@contextmanager
def cuda_autocast_available() -> Iterator[None]:
    """Within the block, let ``torch.autocast("cuda")`` be on without a GPU, for float16.

    Activation checkpointing enters autocast again in backward, so a backward is inside as well.
    """
    if torch.cuda.is_available():
        yield
        return
    common: Any = torch.cuda.amp.common
    before = common.amp_definitely_not_available
    common.amp_definitely_not_available = lambda: False
    try:
        yield
    finally:
        common.amp_definitely_not_available = before


def fake_backward(loss: torch.Tensor) -> None:
    """Compute the gradients of ``loss`` as ``loss.backward()`` does, in the calling thread.

    Nodes run in the order of PyTorch's engine, and each is freed as soon as it has run, so that the
    memory in use is the engine's at each operation. Afterwards ``loss`` has no graph. Hooks on
    tensors and nodes do not run.

    Args:
        loss: A scalar with a graph. Its tensors may be fake.
    """
    # checkpointed tensors are recomputed once in a backward, which an engine has to have begun: it
    # runs a graph of one node on the CPU, and this node is the walk through the graph of the loss
    gradient, nodes = torch.ones_like(loss), [cast(Node, loss.grad_fn)]
    loss.detach_()
    start = torch.zeros((), device="cpu", requires_grad=True)
    _InBackward.apply(start, lambda: _walk(nodes.pop(), gradient)).backward()


class _InBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, start: torch.Tensor, work: Callable[[], None]) -> torch.Tensor:
        ctx.work = work
        return start.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None]:
        ctx.work()
        return None, None


def _walk(root: Node, gradient: torch.Tensor) -> None:
    users = _count_users(root)  # that have not run yet; no other name here may keep a node alive
    gradients: dict[Node, dict[int, torch.Tensor]] = {root: {0: gradient}}
    ready = [root]
    del root, gradient
    while ready:
        node = ready.pop(max(range(len(ready)), key=lambda i: ready[i]._sequence_nr()))
        if _is_leaf(node):
            _accumulate(node, gradients.pop(node, {}))
            continue
        results = _run(node, gradients.pop(node, {}))
        edges = _edges(node)
        del node
        while results:
            result, (user, number) = results.pop(0), edges.pop(0)
            if user is None:
                continue
            if result is not None:
                _add(gradients.setdefault(user, {}), number, _fitted(result, user, number))
            users[user] -= 1
            if not users[user]:
                del users[user]
                ready.append(user)
        result = user = None


def _count_users(root: Node) -> dict[Node, int]:
    users: dict[Node, int] = {}
    left = [root]
    while left:
        for node, _ in left.pop().next_functions:
            if node is None:
                continue
            if node not in users:
                left.append(node)
            users[node] = users.get(node, 0) + 1
    return users


def _run(node: Any, gradients: dict[int, torch.Tensor]) -> list[torch.Tensor | None]:
    """Return the gradient of each edge of a node."""
    given = [gradients.pop(i, None) for i in range(len(node._input_metadata))]
    if not _is_custom(node):
        results = node(*given)
        return [*results] if isinstance(results, tuple) else [results]
    likes = node._input_metadata
    results = node.apply(
        *(
            torch.zeros(like.shape, dtype=like.dtype, device=like.device) if g is None else g
            for g, like in zip(given, likes)
        )
    )
    results = results if isinstance(results, tuple) else (results,)
    # inputs that are no tensors have a result, and no edge
    return [result for result, needed in zip(results, node.needs_input_grad) if needed]


def _edges(node: Any) -> list[tuple[Any, int]]:
    edges = node.next_functions
    return [edge for edge in edges if edge[0] is not None] if _is_custom(node) else [*edges]


def _is_custom(node: Any) -> bool:
    return isinstance(node, torch._C._FunctionBase)


def _is_leaf(node: Any) -> bool:
    return hasattr(node, "variable")


def _fitted(gradient: torch.Tensor, node: Any, number: int) -> torch.Tensor:
    """Return a gradient with the shape and dtype of what it is the gradient of."""
    like = node.variable if _is_leaf(node) else node._input_metadata[number]
    if gradient.shape != like.shape:
        gradient = gradient.sum_to_size(like.shape)
    return gradient.to(like.dtype)


def _add(gradients: dict[int, torch.Tensor], number: int, gradient: torch.Tensor) -> None:
    before = gradients.get(number)
    gradients[number] = gradient if before is None else before + gradient


def _accumulate(node: Any, gradients: dict[int, torch.Tensor]) -> None:
    if not gradients:
        return
    leaf = node.variable
    gradient = gradients.pop(0).detach()
    if leaf.grad is None:
        leaf.grad = gradient
    else:
        leaf.grad += gradient
