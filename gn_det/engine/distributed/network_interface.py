"""Which network interface leads to another machine."""

import contextlib
import socket
import struct

__all__ = ["interface_to"]

SIOCGIFADDR = 0x8915  # Linux: address of an interface


def interface_to(host: str) -> str | None:
    """Return the name of the interface by which a host is reached; None where it is not known.

    PyTorch's gloo takes the interface of the machine's own name, which often stands for 127.0.1.1:
    others then try to reach it at their own loopback, and hang.

    Args:
        host: The name or address of the host.
    """
    try:
        import fcntl  # not on Windows

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.connect((host, 9))  # sends nothing
            address = udp.getsockname()[0]
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                with contextlib.suppress(OSError):  # one without an address
                    answer = fcntl.ioctl(udp.fileno(), SIOCGIFADDR, request)
                    if socket.inet_ntoa(answer[20:24]) == address:
                        return name
    except (ImportError, OSError):
        pass
    return None
