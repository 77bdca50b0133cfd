"""The memory that users' cut-offs take, in a process that knows nothing else.

The specification has `count`. One JSON object goes to stdout: `users`, `bytes` of the tables, and
by how many bytes the process's resident memory grew (`rss`).
"""

import json
import os
import secrets
import sys
import time

from authz.revocation.known.cutoffs import Cutoffs
from loadtest import memory
from loadtest.feed.scripts import specification

DIGEST_BYTES = 32
"""As many as SHA-256 has; 43 characters of base64url."""


def main() -> None:
    count, now = specification()["count"], time.time()
    cutoffs = Cutoffs()
    before = memory.read(os.getpid()).rss
    for _ in range(count):
        cutoffs.add(secrets.token_urlsafe(DIGEST_BYTES), now, now)
    after = memory.read(os.getpid()).rss
    json.dump(
        {"users": cutoffs.users, "bytes": cutoffs.size_bytes, "rss": after - before}, sys.stdout
    )


if __name__ == "__main__":
    main()
