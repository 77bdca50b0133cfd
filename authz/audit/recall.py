"""What an earlier start let through and did not look at again, out of the audit file itself.

Blocking: for a thread.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from authz.audit.ledger import Ledger
from authz.audit.pending import LetThrough

RECALL_BYTES = 16 * 1024 * 1024
"""Of the end of the file that are read: 20,000 to 30,000 records of 560 to 800 bytes, so as many as
`Pending` holds tokens. A second of a thread's, at the start only. What lies before, or in a renamed
file, is for `authz audit reconcile`."""


def recall(
    path: Path, instance: str, buckets: int, most: int = RECALL_BYTES
) -> Sequence[LetThrough]:
    """Tokens that were let through by others than `instance` and not reconciled. Those of buckets
    that are no more can't be asked about and are left out. OSError: the file can't be read.
    """
    ledger = Ledger(but=instance)
    try:
        # Not blocking where it is a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, "rb") as lines:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return []
        if status.st_size > most:
            lines.seek(status.st_size - most - 1)
            lines.readline()  # to the end of the line that is cut
        left = most
        for line in lines:
            left -= len(line)
            if left < 0:  # it grows faster than it is read
                break
            ledger.read(line)
    return [token for token in ledger.outstanding() if 0 <= token.ref.bucket < buckets]
