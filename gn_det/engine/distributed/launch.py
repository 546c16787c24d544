"""Starts the processes of a run, by itself or under torchrun, and ends them all when one fails."""

import argparse
import logging
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from types import FrameType
from urllib.parse import urlparse

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT, _distributed_worker, _find_free_port
from detectron2.utils import comm

from gn_det.config import ConfigError
from gn_det.engine.errors import (
    EXPECTED,
    RunStopped,
    exit_on_error,
    exit_status,
    full_disk_is_expected,
    log_unexpected,
)
from gn_det.engine.hooks.preemption import EXIT_PREEMPTED
from gn_det.engine.interrupt import EXIT_INTERRUPTED, STOPPED, exit_on_interrupt, leave_at_once
from gn_det.engine.run_log import (
    FILE_ONLY,
    hold_warnings,
    release_warnings,
    start_messages,
)

from .heartbeat import heartbeat_monitored
from .network_interface import interface_to

__all__ = ["launch", "run"]

logger = logging.getLogger(__name__)

Main = Callable[[argparse.Namespace], object]

# seconds in which the others have to end by themselves once one has failed
GRACE = 15.0
# seconds in which rank 0 has to save once another one was stopped by a signal
SAVING = 600.0


def run(main: Main, args: argparse.Namespace) -> object:
    """Run ``main(args)`` as :func:`launch` does, with one line for an error that is expected.

    The warnings of the set-up are shown where the work begins, or where it ends before.

    Args:
        main: See :func:`launch`.
        args: See :func:`launch`.

    Returns:
        See :func:`launch`.

    Raises:
        SystemExit: After the line: status 2 for a wrong config, option, file or dataset; status 1
            for what can happen to a run that was right to start, such as NaN or a full disk;
            status 130 after Ctrl-C.
    """
    with exit_on_interrupt(), exit_on_error(resume_option=hasattr(args, "resume")):
        return _run(main, args)


def _run(main: Main, args: argparse.Namespace) -> object:
    hold_warnings()
    if args.num_gpus > 1 and not torch.cuda.is_available():
        logger.warning(f"No GPU found: --num-gpus {args.num_gpus} starts CPU processes.")
    return launch(main, args)


def launch(main: Main, args: argparse.Namespace) -> object:
    """Run ``main(args)`` in as many processes as the command line or torchrun asks for.

    Args:
        main: A function of a module, so that new processes find it.
        args: The arguments of :func:`gn_det.engine.argument_parser`. Where torchrun restarts the
            workers, ``args.resume`` becomes True.

    Returns:
        What ``main`` returns, where it runs in this process; else None.

    Raises:
        ConfigError: An option cannot be used.
        SystemExit: A process failed, or was stopped by a signal; with its status.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _under_torchrun(main, args)
    _check(args)
    if args.num_gpus * args.num_machines == 1:
        return main(args)
    url = args.dist_url
    if url == "auto":
        url = f"tcp://127.0.0.1:{_find_free_port()}"
    if args.num_machines > 1:
        _set_network_interface(urlparse(url).hostname)
    _start(main, args, url)
    return None


def _check(args: argparse.Namespace) -> None:
    for option, value in (("--num-gpus", args.num_gpus), ("--num-machines", args.num_machines)):
        if value < 1:
            raise ConfigError(f"{option} is {value}; it takes 1 or more.")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank is {args.machine_rank}: with --num-machines {args.num_machines} it is "
            f"0 to {args.num_machines - 1}."
        )
    if args.num_gpus > torch.cuda.device_count() > 0:
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()}."
        )
    url = urlparse(args.dist_url)
    if args.dist_url == "auto":
        if args.num_machines > 1:
            raise ConfigError(
                "--dist-url auto is for one machine; give tcp://HOST:PORT of the machine of rank 0."
            )
    elif url.scheme == "tcp" and not (url.hostname and url.port):
        raise ConfigError(f"--dist-url is {args.dist_url}; write tcp://HOST:PORT.")


def _set_network_interface(host: str | None) -> None:
    found = interface_to(host) if host else None
    if found is None:
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", found)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={found}")  # without "=" it is a prefix


def _under_torchrun(main: Main, args: argparse.Namespace) -> object:
    if args.num_gpus > 1 or args.num_machines > 1:
        raise ConfigError(
            "--num-gpus and --num-machines start processes, which torchrun has done already: leave "
            "them out. torchrun's own options are --nproc-per-node and --nnodes."
        )
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and hasattr(args, "resume"):
        logger.warning("torchrun has restarted the workers: continuing as with --resume.")
        args.resume = True
    local_rank, local_size = (int(os.environ[k]) for k in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if local_size > torch.cuda.device_count() > 0:
        raise ConfigError(
            f"torchrun has started {local_size} processes, each of which needs a GPU, but this "
            f"machine has {torch.cuda.device_count()}. Set torchrun's --nproc-per-node."
        )
    if int(os.environ["WORLD_SIZE"]) > local_size:
        _set_network_interface(os.environ["MASTER_ADDR"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    # torchrun's store outlives the workers: the addresses of those before are still in it
    store, rank, world_size = next(dist.rendezvous("env://", timeout=DEFAULT_TIMEOUT))
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore(f"start_{restarts}", store),
        rank=rank,
        world_size=world_size,
    )
    comm.create_local_process_group(local_size)
    with heartbeat_monitored(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])):
        result = main(args)
    # not after an error: NCCL would wait for the others, which may wait for this process
    dist.destroy_process_group()
    return result


def _start(main: Main, args: argparse.Namespace, url: str) -> None:
    """Start this machine's processes, and wait until all have ended.

    Raises:
        SystemExit: See :func:`launch`.
    """
    release_warnings()
    context = mp.get_context("spawn")
    messages = context.SimpleQueue()
    world_size = args.num_gpus * args.num_machines
    main = partial(_monitored, main, url)
    common = (main, world_size, args.num_gpus, args.machine_rank, url, (args,), DEFAULT_TIMEOUT)
    first = args.machine_rank * args.num_gpus
    processes: dict[int, BaseProcess] = {}
    interrupted: list[int] = []

    def forward_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if interrupted:
                leave_at_once()
            interrupted.append(number)
            number = signal.SIGTERM  # they ignore the other: a terminal sends it to all by itself
        for process in processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they inherit
    for local_rank in range(args.num_gpus):
        work = (local_rank, common, messages, os.getpid())
        process = context.Process(target=_work, args=work)
        process.start()
        processes[first + local_rank] = process
    signal.signal(signal.SIGINT, before)
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name) and (name != "SIGINT" or before != signal.SIG_IGN):
            signal.signal(getattr(signal, name), forward_signal)
    # reading ends when the last process that can write has ended; there is no public way
    messages._writer.close()  # type: ignore[attr-defined]
    printed: list[str] = []
    # while they run: a pipe that is full would hold them up. One that is killed may leave half a
    # message, which must not hold up this thread
    reader = threading.Thread(target=_print_messages, args=(messages, printed), daemon=True)
    reader.start()
    failed = _wait(processes)
    reader.join(timeout=5.0)  # workers of theirs, which load data, may have the pipe for longer
    if failed is None:
        return
    status = processes[failed].exitcode or 0
    if status == EXIT_PREEMPTED:
        raise RunStopped(EXIT_INTERRUPTED if interrupted else status)
    if interrupted:
        print(STOPPED, file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED)
    if not printed:
        how = (
            f"ended with status {status}"
            if status > 0
            else f"was ended by {signal.Signals(-status).name}"
        )
        print(
            f"error: rank {failed} (process {processes[failed].pid}) {how}; the others on this "
            "machine were stopped. --resume continues from the last checkpoint.",
            file=sys.stderr,
        )
    raise SystemExit(status if status > 0 else 1)


def _print_messages(messages: "SimpleQueue[str]", printed: list[str]) -> None:
    """Print each message once, and add it to ``printed``, until nobody can send one."""
    with suppress(EOFError, OSError):
        while True:
            message = messages.get()
            if message not in printed:  # all ranks find the same wrong key
                printed.append(message)
                print(f"error: {message}", file=sys.stderr)


def _wait(processes: dict[int, BaseProcess]) -> int | None:
    """Wait until all processes have ended, and return the rank that failed first.

    From then on the others have GRACE. A process that was only stopped by a signal fails where no
    other does: the others get the signal as well, and rank 0, which saves, has SAVING.

    Args:
        processes: The processes of this machine by rank.
    """
    failed, since, settled, stopping = None, None, False, False
    while True:
        alive = {rank: p for rank, p in processes.items() if p.is_alive()}
        ended = {r: p.exitcode for r, p in processes.items() if r not in alive and p.exitcode}
        bad = [r for r, status in ended.items() if status != EXIT_PREEMPTED] or [*ended]
        if bad and not settled:
            failed, since = bad[0], since or time.monotonic()
            # without rank 0, which has saved, the others lose the connection or are killed here
            settled = ended[failed] != EXIT_PREEMPTED or 0 not in alive
        if not alive:
            return failed
        preempted = EXIT_PREEMPTED in ended.values()
        if preempted and not stopping:
            stopping = True
            for process in alive.values():
                process.terminate()
        grace = SAVING if preempted and 0 in alive else GRACE
        if since is not None and time.monotonic() - since > grace:
            for process in alive.values():
                process.kill()  # it may wait in a collective for ever, deaf to other signals
        wait([p.sentinel for p in alive.values()], timeout=1.0)


def _monitored(main: Main, url: str, args: argparse.Namespace) -> object:
    place = urlparse(url)
    monitored: AbstractContextManager = nullcontext()  # a file:// has no store to count in
    if place.scheme == "tcp" and place.hostname and place.port:
        monitored = heartbeat_monitored(place.hostname, place.port)
    with monitored:
        result = main(args)
    dist.destroy_process_group()  # see _under_torchrun
    return result


def _work(local_rank: int, common: tuple, messages: "SimpleQueue[str]", parent: int) -> None:
    """Be one process of a run.

    Args:
        local_rank: The rank of this process on its machine.
        common: The further arguments of Detectron2's worker, which are the same in all processes.
        messages: A queue for the message of an expected error.
        parent: The id of the process that started this one.
    """
    _, _, num_processes, *_ = common
    start_messages()
    hold_warnings()
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
    threading.Thread(target=_stop_without_parent, args=(parent,), daemon=True).start()
    try:
        with full_disk_is_expected():
            _distributed_worker(local_rank, *common)
    except EXPECTED as error:
        logger.error(str(error), extra=FILE_ONLY)
        messages.put(str(error))
        raise SystemExit(exit_status(error)) from None
    except Exception as error:
        log_unexpected(error)
        raise
    finally:
        release_warnings()


def _stop_without_parent(parent: int) -> None:
    """Request this process to stop once its parent was killed: nobody else would end it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
