"""What the decoder child gives up before it meets a clip: memory, files, processes, the network. Irrevocable.

Resource limits hold on every POSIX system. On Linux a seccomp filter comes on top: of the kernel's hundreds of calls it
leaves those that compute, read and answer through what is open already. No socket, file, process or program can be
opened or started after that, not even by code that a hole in FFmpeg let in. It asks for no privilege and stays in force
in a container.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import sys

MEMORY_SHARE = 0.5  # of the machine's: the rest of a small Jetson must live on
ADDRESS_SPARE = 2 << 30  # code, thread stacks and malloc's reserves, which take addresses and no memory
OPEN_FILES = 32  # pipes, slots, one clip and Python's own: ten in practice

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
KILL_PROCESS, ALLOW = 0x8000_0000, 0x7FFF_0000
REFUSE = 0x0005_0000 | 38  # ENOSYS, as from a kernel without the call: every library has an answer to that
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: BPF_LD+W+ABS, BPF_JMP+JEQ+K, ...
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the argument's lower half
CLONE_THREAD = 0x10000
X32 = 0x4000_0000  # x86-64's other calling convention has numbers of its own from here on

ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}  # column in CALLS, AUDIT_ARCH_*
CALLS = {  # the calls that stay, by their numbers on x86-64 and on ARM; None: not there
    "read": (0, 63), "readv": (19, 65), "pread64": (17, 67), "write": (1, 64), "writev": (20, 66), "lseek": (8, 62),
    "fstat": (5, 80), "newfstatat": (262, 79), "close": (3, 57), "recvmsg": (47, 212), "poll": (7, None),
    "ppoll": (271, 73), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233), "brk": (12, 214), "futex": (202, 98), "membarrier": (324, 283), "gettid": (186, 178),
    "set_robust_list": (273, 99), "rseq": (334, 293), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getpid": (39, 172), "getrusage": (98, 165), "getrandom": (318, 278),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
CLONE = (56, 220)  # threads only
PRLIMIT = (302, 261)  # of the process itself only


def limit_resources(memory: int) -> None:
    """Cap memory (bytes of private data), files, and what a crash leaves behind. Where a cap is stricter, it stays."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system
        memory = min(memory, int(MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    limits = {
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": memory + ADDRESS_SPARE,  # memory that is shared, which is no private data
        "RLIMIT_FSIZE": 0,  # it writes to its pipe and nowhere else
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": OPEN_FILES,
    }
    for name, limit in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system, or stricter already
            resource.setrlimit(getattr(resource, name), (limit, limit))


def allow_cpu(until_s: float) -> None:
    """Let the process live until it has used so much CPU time in all. The system ends one that spins, even alone."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    until = math.ceil(until_s)
    if hard == resource.RLIM_INFINITY or until <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def seal() -> bool:
    """Leave this thread, and those that it starts, only CALLS. False where the system has no filter for that."""
    machine = os.uname().machine
    if not sys.platform.startswith("linux") or machine not in ARCHITECTURES or sys.maxsize < 2**32:
        return False
    instructions = filter_program(*ARCHITECTURES[machine])
    array = (_Instruction * len(instructions))(*(_Instruction(*fields) for fields in instructions))
    program = _Program(len(array), array)
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes, prctl.restype = (ctypes.c_int, *[ctypes.c_ulong] * 4), ctypes.c_int
    without_privileges = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return without_privileges and prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0) == 0


def filter_program(column: int, architecture: int) -> list[tuple[int, int, int, int]]:
    """BPF instructions (code, jump if true, jump if false, value) that let CALLS pass and refuse all others."""
    numbers = [call[column] for call in CALLS.values() if call[column] is not None]
    checks = [(LOAD, 0, 0, NUMBER), (AT_LEAST, len(numbers) + 6, 0, X32)]
    checks += [(EQUAL, len(numbers) - i + 6, 0, number) for i, number in enumerate(numbers)]
    checks += [
        (EQUAL, 0, 2, CLONE[column]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 4, 3, CLONE_THREAD),
        (EQUAL, 0, 2, PRLIMIT[column]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 1, 0, 0),  # the process itself
    ]
    ends = [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    return [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL_PROCESS), *checks, *ends]
