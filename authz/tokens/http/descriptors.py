"""How many connections the process has descriptors for."""

import resource


def connections_within(wanted: int) -> int:
    """So many connections may clients have at a time: `wanted`, or half of what the process may
    have of descriptors, since each request may need one for the store as well.

    The soft limit, which is 1024 in most places, is raised as far as it takes and the hard limit
    lets: who runs out of descriptors can't even answer that it is busy.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed // 2
