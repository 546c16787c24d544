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
from contextlib import nullcontext, suppress
from functools import partial
from multiprocessing.connection import wait
from types import FrameType
from urllib.parse import urlparse

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT, _distributed_worker, _find_free_port
from detectron2.utils import comm

from gn_det.config import ConfigError
from gn_det.engine.errors import EXPECTED, exit_status
from gn_det.engine.hooks.preemption import EXIT_PREEMPTED

from .heartbeat import watched
from .network_interface import interface_to

__all__ = ["launch"]

logger = logging.getLogger(__name__)

# seconds that the others have to end by themselves once one has failed
GRACE = 15.0
# seconds that rank 0 has to save once another one has left, as it was told to
SAVING = 600.0


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> object:
    """Run ``main(args)`` in as many processes as the command line or torchrun asks for.

    Args:
        main: a function of a module, so that new processes find it.
        args: of :func:`gn_det.engine.argument_parser`. Where torchrun starts the workers again,
            ``args.resume`` becomes True.

    Returns:
        What ``main`` returns, where it runs in this process; else None.

    Raises:
        ConfigError: options that cannot be.
        SystemExit: the status of processes that failed, or were told to leave.
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
        _name_interface(urlparse(url).hostname)
    _start(main, args, url)
    return None


def _check(args: argparse.Namespace) -> None:
    for option, value in (("--num-gpus", args.num_gpus), ("--num-machines", args.num_machines)):
        if value < 1:
            raise ConfigError(f"{option} is {value}: at least 1.")
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
                "--dist-url auto is for one machine; give tcp://HOST:PORT of rank 0's."
            )
    elif url.scheme == "tcp" and not (url.hostname and url.port):
        raise ConfigError(f"--dist-url is {args.dist_url}; write tcp://HOST:PORT.")


def _name_interface(host: str | None) -> None:
    found = interface_to(host) if host else None
    for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if found and key not in os.environ:
            os.environ[key] = found


def _under_torchrun(main: Callable, args: argparse.Namespace) -> object:
    if args.num_gpus > 1 or args.num_machines > 1:
        raise ConfigError(
            "--num-gpus and --num-machines start processes, which torchrun has done already: leave "
            "them out. torchrun's own options are --nproc-per-node and --nnodes."
        )
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and hasattr(args, "resume"):
        logger.warning("torchrun has started the workers again: going on with --resume.")
        args.resume = True
    local_rank, local_size = (int(os.environ[k]) for k in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if int(os.environ["WORLD_SIZE"]) > local_size:
        _name_interface(os.environ["MASTER_ADDR"])
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
    try:
        with watched(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])):
            return main(args)
    finally:
        dist.destroy_process_group()


def _start(main: Callable, args: argparse.Namespace, url: str) -> None:
    context = mp.get_context("spawn")
    messages = context.SimpleQueue()
    world = args.num_gpus * args.num_machines
    main = partial(_watched, main, url)
    common = (main, world, args.num_gpus, args.machine_rank, url, (args,), DEFAULT_TIMEOUT)
    first = args.machine_rank * args.num_gpus
    processes = {}
    for local_rank in range(args.num_gpus):
        work = (local_rank, common, messages, os.getpid())
        process = context.Process(target=_work, args=work)
        process.start()
        processes[first + local_rank] = process

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes.values():
            if process.is_alive():
                os.kill(process.pid, number)

    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), pass_on)
    messages._writer.close()  # so that reading ends when the processes have
    said: list[str] = []
    # while they run: a pipe that is full would hold them up. One that is killed may leave half a
    # message, which must not hold up this thread
    reader = threading.Thread(target=_say, args=(messages, said), daemon=True)
    reader.start()
    failed = _wait(processes)
    reader.join(timeout=5.0)  # their own processes, which load data, may have the pipe for longer
    if failed is None:
        return
    status = processes[failed].exitcode
    if status != EXIT_PREEMPTED and not said:
        how = (
            f"ended with status {status}"
            if status > 0
            else f"was ended by {signal.Signals(-status).name}"
        )
        print(
            f"error: rank {failed} (process {processes[failed].pid}) {how}; the others on this "
            "machine were stopped. --resume goes on from the last checkpoint.",
            file=sys.stderr,
        )
    raise SystemExit(status if status > 0 else 1)


def _say(messages: "mp.SimpleQueue", said: list[str]) -> None:
    """Print each message once, and note it in ``said``, until nobody can send one."""
    with suppress(EOFError, OSError):
        while True:
            message = messages.get()
            if message not in said:  # all ranks find the same wrong key
                said.append(message)
                print(f"error: {message}", file=sys.stderr)


def _wait(processes: dict[int, mp.Process]) -> int | None:
    """Wait until all have ended; return the rank that failed first.

    The others have GRACE then. One that only left, as it was told to, fails where no other does:
    the others are told as well, and rank 0, which saves, has SAVING.
    """
    failed, since, settled, told = None, None, False, False
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
        left = EXIT_PREEMPTED in ended.values()
        if left and not told:
            told = True
            for process in alive.values():
                process.terminate()
        grace = SAVING if left and 0 in alive else GRACE
        if since is not None and time.monotonic() - since > grace:
            for process in alive.values():
                process.kill()  # it may sit in a collective for ever, deaf to other signals
        wait([p.sentinel for p in alive.values()], timeout=1.0)


def _watched(main: Callable, url: str, args: argparse.Namespace) -> object:
    place = urlparse(url)
    with watched(place.hostname, place.port) if place.scheme == "tcp" else nullcontext():
        return main(args)


def _work(local_rank: int, common: tuple, messages: "mp.SimpleQueue", parent: int) -> None:
    """Be one process of a run; ``common`` is what Detectron2's worker takes besides its rank."""
    _, _, num_processes, *_ = common
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
    threading.Thread(target=_leave_without, args=(parent,), daemon=True).start()
    try:
        _distributed_worker(local_rank, *common)
    except EXPECTED as error:
        messages.put(str(error))
        raise SystemExit(exit_status(error)) from None


def _leave_without(parent: int) -> None:
    """Ask this process to leave where its parent was killed: nobody would end it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
